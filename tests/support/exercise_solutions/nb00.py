def reference(verdicts):
    step = len(verdicts)
    while step and verdicts[step - 1]:
        step -= 1
    return step


def first_correct(verdicts):
    return verdicts.index(True) if True in verdicts else len(verdicts)


def counted_from_one(verdicts):
    return reference(verdicts) + 1


INCORRECT_ANSWERS = [(first_correct, "did not stay so"), (counted_from_one, "expected 2")]
