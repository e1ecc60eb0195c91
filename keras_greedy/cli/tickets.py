"""`keras-greedy ticket`."""

from keras_greedy.cli.models import load_model
from keras_greedy.cli.results import Result, printed
from keras_greedy.lottery import find_ticket
from tflite_export.checks import check_target


@printed
def ticket(model: str, output: str, redundancy: int, seed: int) -> Result:
    """Prunes a random network until it computes what a model does."""
    target = check_target(output, ".keras")
    found = find_ticket(load_model(model), redundancy, seed=seed)
    found.save(target)
    facts = {
        "output": output,
        "sparsity": found.sparsity,
        "max_error": found.max_error,
        "redundancy": found.redundancy,
    }
    return Result(f"{found}\nWrote {output}", facts)
