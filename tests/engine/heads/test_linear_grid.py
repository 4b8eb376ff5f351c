"""Layers trained side by side: each is what torch's optimizers give it alone, and none sees another."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tle.enums import Target
from tle.heads.linear_grid import FeatureReader, Member, Recipe, train_grid
from tle.heads.linear_targets import LinearTargets
from tle.heads.samples import Samples
from tle.heads.scaler import fit_scaler
from tle.heads.schedules import warmup_cosine

CPU = torch.device("cpu")
MEMBERS = [Member(1e-3, 0.0), Member(1e-2, 0.3), Member(3e-2, 0.01)]


def recipe_of(**changes):
    fixed = {"optimizer": "adamw", "momentum": 0.9, "epochs": 4, "batch_size": 16, "patience": 99}
    merged = fixed | changes
    return Recipe(**{"last_epoch": merged["epochs"]} | merged)


def train(task, members, recipe, *, seed=0, class_weight=None, watched=False):
    scaler = fit_scaler(task.train)
    targets = LinearTargets.of(task, task.train, CPU, class_weight)
    val = None
    if watched:
        val_targets, positions = targets.of_validation(task.val)
        val = (FeatureReader(task.val, scaler, CPU), val_targets, positions)
    return train_grid(FeatureReader(task.train, scaler, CPU), targets, members, recipe, seed, val)


def make_labels(target, x_ND, y_N):
    if target is Target.CLASS:
        return y_N
    if target is Target.MULTILABEL:
        return np.stack([y_N == 0, y_N >= 1, x_ND[:, 0] > 0], axis=1).astype(np.uint8)
    return (5 + 2 * x_ND[:, 0]).astype(np.float32)


def torch_alone(task, member, recipe, class_weight):
    """One layer by autograd and torch.optim, on the same batches."""
    x_ND, labels = task.train.gather(), task.train.labels
    z_ND = torch.from_numpy(fit_scaler(task.train).apply(x_ND).astype(np.float32))
    if task.target is Target.REGRESSION:
        labels = (labels - labels.mean()) / labels.std()
    truth = torch.from_numpy(labels)
    weight = None if class_weight is None else len(labels) / (3 * torch.bincount(truth, minlength=3))
    outputs = {Target.CLASS: 3, Target.MULTILABEL: 3, Target.REGRESSION: 1}[task.target]
    layer = torch.nn.Linear(task.train.dim, outputs)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    groups = [
        {"params": [layer.weight], "weight_decay": member.weight_decay},
        {"params": [layer.bias], "weight_decay": 0.0},
    ]
    sgd = recipe.optimizer == "sgd"
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=recipe.momentum) if sgd else torch.optim.AdamW(groups)
    rng, n, step = np.random.default_rng(0), len(labels), 0
    steps = recipe.epochs * -(-n // recipe.batch_size)
    for _ in range(recipe.epochs):
        order = rng.permutation(n)
        for start in range(0, n, recipe.batch_size):
            index = np.sort(order[start : start + recipe.batch_size])
            logits = layer(z_ND[index])
            if task.target is Target.CLASS:
                loss = functional.cross_entropy(logits, truth[index], weight=weight, reduction="sum") / len(index)
            elif task.target is Target.MULTILABEL:
                loss = functional.binary_cross_entropy_with_logits(logits, truth[index].float())
            else:
                loss = functional.mse_loss(logits[:, 0], truth[index])
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = member.lr * warmup_cosine(step, steps)
            optimizer.step()
            step += 1
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("target", "class_weight"),
    [(Target.CLASS, None), (Target.CLASS, "balanced"), (Target.MULTILABEL, None), (Target.REGRESSION, None)],
)
def test_each_layer_is_what_torch_gives_it_alone(make_task, blobs, optimizer, target, class_weight):
    x_ND, y_N = blobs(75, 5, 3)
    x_ND, y_N = np.concatenate([x_ND, x_ND[:1]]), np.concatenate([y_N, y_N[:1]])  # not balanced by itself
    task = make_task(x_ND, make_labels(target, x_ND, y_N), target=target)
    recipe = recipe_of(optimizer=optimizer)
    outcomes = train(task, MEMBERS, recipe, class_weight=class_weight)
    for member, outcome in zip(MEMBERS, outcomes, strict=True):
        weight_PD, bias_P = torch_alone(task, member, recipe, class_weight)
        np.testing.assert_allclose(outcome.weight_PD, weight_PD, rtol=1e-3, atol=2e-5)
        np.testing.assert_allclose(outcome.bias_P, bias_P, rtol=1e-3, atol=2e-5)
        assert outcome.epoch == 4


def test_a_layer_does_not_see_the_others_nor_their_end(make_task, blobs):
    task = make_task(*blobs(100, 6, 3), n_val=20)
    wild = [Member(1e30, 0.1), *MEMBERS, Member(1e25, 0.1)]
    together = train(task, wild, recipe_of(), watched=True)
    assert [outcome.weight_PD is None for outcome in together] == [True, False, False, False, True]
    for member, outcome in zip(MEMBERS, together[1:4], strict=True):
        alone = train(task, [member], recipe_of(), watched=True)[0]
        np.testing.assert_allclose(outcome.weight_PD, alone.weight_PD, rtol=1e-4, atol=1e-6)
        assert outcome.epoch == alone.epoch


def test_the_best_epoch_comes_back_and_patience_ends_the_rest(make_task, blobs):
    task = make_task(*blobs(120, 30, 3, spread=4.0), n_val=40)
    members, long = [Member(0.05, 0.0), Member(1e-5, 0.0)], recipe_of(epochs=30)
    watched = train(task, members, long, watched=True)
    assert watched[0].epoch < 10 < watched[1].epoch
    for member, outcome in zip(members, watched, strict=True):
        again = train(task, [member], recipe_of(epochs=30, last_epoch=outcome.epoch))[0]
        np.testing.assert_allclose(outcome.weight_PD, again.weight_PD, rtol=1e-3, atol=1e-6)
        losses = [
            train(task, [member], recipe_of(epochs=30, last_epoch=epoch), watched=True)[0].val_loss
            for epoch in (outcome.epoch - 1, outcome.epoch)
        ]
        assert losses[1] == pytest.approx(outcome.val_loss, rel=1e-5)
        assert losses[1] < losses[0]
    hasty = train(task, members, recipe_of(epochs=30, patience=2), watched=True)
    assert [outcome.epoch for outcome in hasty] == [outcome.epoch for outcome in watched]


class Witness(np.ndarray):
    """Features that note which rows were asked for."""

    def __getitem__(self, rows):
        self.asked.append(np.asarray(rows).tolist())
        return np.asarray(self)[rows]


def test_a_batch_is_read_once_for_all_layers_rows_ascending(make_task, blobs):
    x_ND, y_N = blobs(50, 4, 2)
    task = make_task(x_ND, y_N)
    scaler, targets = fit_scaler(task.train), LinearTargets.of(task, task.train, CPU)
    watched = x_ND.view(Witness)
    watched.asked = []
    rows = np.arange(50)
    train_grid(FeatureReader(Samples(watched, rows, y_N), scaler, CPU), targets, MEMBERS, recipe_of(epochs=2), 0)
    assert len(watched.asked) == 2 * 4
    assert all(batch == sorted(batch) for batch in watched.asked)
    for epoch in range(2):
        assert sorted(row for batch in watched.asked[4 * epoch : 4 * epoch + 4] for row in batch) == rows.tolist()


def test_float16_on_disk_is_read_as_it_is(tmp_path, make_task, blobs):
    x_ND, y_N = blobs(64, 4, 2)
    on_disk = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float16, x_ND.shape)
    on_disk[:] = x_ND
    before = on_disk.copy()
    from_disk = train(make_task(on_disk, y_N), MEMBERS, recipe_of())
    in_memory = train(make_task(before.astype(np.float32), y_N), MEMBERS, recipe_of())
    for one, other in zip(from_disk, in_memory, strict=True):
        np.testing.assert_array_equal(one.weight_PD, other.weight_PD)
    np.testing.assert_array_equal(on_disk, before)


def test_validation_pictures_of_unseen_classes_are_passed_over(make_task, blobs):
    x_ND, y_N = blobs(80, 4, 2)
    labels = y_N * 2
    labels[70:75] = 1  # only in val
    task = make_task(x_ND, labels, n_val=20, n_classes=3)
    assert all(np.isfinite(outcome.val_loss) for outcome in train(task, MEMBERS, recipe_of(), watched=True))
    targets = LinearTargets.of(task, task.train, CPU)
    assert targets.of_validation(task.val)[1].tolist() == [*range(10), *range(15, 20)]
