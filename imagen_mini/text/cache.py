"""Encoded prompts kept on disk, so that a large text encoder is paid for once."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from imagen_mini.text.encoder import TextEmbeddings, TextEncoder, check_prompts

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class CachedTextEncoder(TextEncoder):
    """A text encoder that looks a prompt up before it encodes it: the same call, the same result.

    `folder` gets one SQLite file for each encoder (weights, tokenizer, configuration), length limit
    and `dtype`, with one row for each prompt: its real tokens' embeddings and a checksum. Rows come
    in whole transactions, so several processes may share the folder and any may be killed at any
    moment; a row with an incorrect checksum is encoded anew. The first embedding of a prompt to
    reach the file is the one that every call returns.

    Embeddings come back in the encoder's dtype, on its device. The warning about a prompt that is
    cut comes when it is encoded.

    Args:
        encoder: encodes what is not in the file.
        folder: of the files; it is made if need be.
        dtype: of the embeddings in the file, torch.float32 or torch.bfloat16. The encoder's by
            default, which changes no bit; torch.bfloat16 halves a float32 encoder's file and
            rounds.

    Raises:
        ValueError: for another dtype.
        OSError: if the folder or the file cannot be used.
    """

    def __init__(self, encoder: TextEncoder, folder: str | Path, dtype: torch.dtype | None = None):
        super().__init__(encoder.model, encoder.tokenizer, encoder.max_length)
        self.dtype: torch.dtype = dtype or self.model.dtype
        if self.dtype not in DTYPES:
            raise ValueError(
                f"a text cache of {self.dtype}; expected one of {', '.join(map(str, DTYPES))}"
            )
        self.file = (
            Path(folder) / f"{exact_digest(encoder)}_{self.max_length}_{DTYPES[self.dtype]}.sqlite"
        )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # a transaction is begun where it says so
            self.rows = sqlite3.connect(self.file, timeout=60, isolation_level=None)
            self.rows.execute(
                "CREATE TABLE IF NOT EXISTS text (prompt TEXT PRIMARY KEY, emb BLOB, checksum BLOB)"
            )
        except sqlite3.Error as error:
            raise OSError(
                f"the text cache {self.file} cannot be used: {error}. If it is damaged, delete "
                "it: it only saves time"
            ) from error

    def forward(self, prompts: str | Sequence[str]) -> TextEmbeddings:
        """Encode prompts, as `TextEncoder` does; what the cache holds is not encoded again."""
        prompts = check_prompts(prompts)
        distinct = list(dict.fromkeys(prompts))
        found = self._read(distinct)
        if missing := [p for p in distinct if p not in found]:
            text = super().forward(missing)
            encoded = {
                p: emb[mask].to("cpu", self.dtype)
                for p, emb, mask in zip(missing, text.emb, text.mask)
            }
            self._write(encoded)
            found |= encoded | self._read(missing)  # another process may have been first
        emb = pad_sequence([found[p] for p in prompts], batch_first=True)
        mask = torch.arange(emb.shape[1]) < torch.tensor([len(found[p]) for p in prompts])[:, None]
        return TextEmbeddings(emb, mask).to(self.model.device, self.model.dtype)

    def tokenize_fn(self) -> None:
        """None: the prompts themselves are looked up, in this process. A connection to the file
        cannot be shared with another one.
        """

    def _read(self, prompts: list[str]) -> dict[str, Tensor]:
        """The embeddings [tokens, d] of those prompts that the file holds. Rows with an incorrect
        checksum are removed.
        """
        found = {}
        try:
            for prompt in prompts:
                row = self.rows.execute(
                    "SELECT CAST(emb AS BLOB), checksum FROM text WHERE prompt = ?", (prompt,)
                ).fetchone()
                if row is None:
                    continue
                if row[1] == _checksum(prompt, row[0] or b""):
                    found[prompt] = torch.frombuffer(bytearray(row[0]), dtype=self.dtype).view(
                        -1, self.width
                    )
                else:
                    self.rows.execute("DELETE FROM text WHERE prompt = ?", (prompt,))
        except sqlite3.Error as error:
            self._warn(error)
        return found

    def _write(self, encoded: dict[str, Tensor]) -> None:
        blobs = {
            p: emb.contiguous().view(torch.uint8).numpy().tobytes() for p, emb in encoded.items()
        }
        try:
            with self.rows:  # all of them or, if the process is killed here, none
                self.rows.execute("BEGIN IMMEDIATE")
                self.rows.executemany(
                    "INSERT OR IGNORE INTO text VALUES (?, ?, ?)",
                    [(p, blob, _checksum(p, blob)) for p, blob in blobs.items()],
                )
        except sqlite3.Error as error:
            self._warn(error)

    def _warn(self, error: sqlite3.Error) -> None:
        """A cache that fails (damaged, disk full) costs time, never the run."""
        warnings.warn(
            f"the text cache {self.file} failed: {error}. Its prompts are encoded each time; "
            "if it is damaged, delete it",
            stacklevel=4,
        )


def _checksum(prompt: str, emb: bytes) -> bytes:
    return hashlib.sha256(prompt.encode() + b"\0" + emb).digest()


def exact_digest(encoder: TextEncoder) -> str:
    """SHA-256 of all that decides an encoder's output, bit for bit: configuration, tokenizer and
    weights. (For a name that survives a change of precision see `TextEncoder.weights_digest`.)
    """
    config = {
        k: v
        for k, v in encoder.model.config.to_dict().items()
        if k not in ("_name_or_path", "transformers_version")
    }
    tokenizer = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):  # each call sets these again
        tokenizer.pop(name, None)
    digest = hashlib.sha256(json.dumps([config, tokenizer], sort_keys=True).encode())
    for name, tensor in encoder.model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
