"""States of training that can be told apart, and the checkpoints they are saved in."""


def at(state, step):
    """The state with its counter and one of its weights raised by `step`."""
    linear = state.meta.params["linear"]
    params = {**state.meta.params, "linear": {**linear, "bias": linear["bias"] + step}}
    return state._replace(step=state.step + step, meta=state.meta._replace(params=params))


def saved_steps(workdir):
    """Outer steps of the checkpoints in a workdir."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def save_all(checkpoints, state, accuracies):
    """Saves {step: validation accuracy}; None for a save inside an epoch."""
    for step, accuracy in accuracies.items():
        if accuracy is not None:
            checkpoints.buffer(at(state, step), accuracy)
        checkpoints.save(at(state, step))
