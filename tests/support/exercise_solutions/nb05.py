import torch


def reference(emb, mask):
    return (emb * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def mask_ignored(emb, mask):
    return emb.mean(1)


def padded_length(emb, mask):
    return (emb * mask[:, :, None]).sum(1) / emb.shape[1]


def padding_summed(emb, mask):
    return emb.sum(1) / mask.sum(1, keepdim=True)


def over_the_batch(emb, mask):
    return emb[mask].mean(0, keepdim=True).expand(len(emb), -1)


def first_tokens(emb, mask):
    return torch.stack([row[:n].mean(0) for row, n in zip(emb, mask.sum(1))])


INCORRECT_ANSWERS = [
    (mask_ignored, "the padded length depends on what else is in the batch"),
    (padded_length, "Divide by the number of real tokens"),
    (padding_summed, "keep padded vectors out of the sum"),
    (over_the_batch, "with zeros at the padding"),
    (first_tokens, "A mask may have gaps"),
]
