"""A run that was cut off anywhere and gone on with is, bit for bit, the run that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from runs import EVERYTHING, SMALL, Killed, contents, kill_at, metrics

from distill import checkpoints, record
from distill.engine.trainer import Trainer


def status(run: str) -> dict:
    return json.loads((Path(run) / "status.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, dict[str, str]]:
    """The contents of runs that were never cut off."""
    from distill import cli

    folder, found = tmp_path_factory.mktemp("whole"), {}
    for name, options in (("plain", []), ("everything", EVERYTHING)):
        assert cli.main(["train", *SMALL, *options, f"run_name={name}", f"runs_dir={folder}"]) == 0
        found[name] = contents(folder / name)
    return found


@pytest.mark.parametrize("options", ["plain", "everything"])
@pytest.mark.parametrize("step", [1, 4, 5, 6, 7, 13, 15, 21, 22])
def test_run_killed_after_any_step_and_gone_on_with_is_the_run_that_was_not(options, step, whole, distill, monkeypatch):
    """Steps 5, 10, 15 and 20 end an epoch; with checkpoints at every step the one before the kill is used."""
    arguments = [*SMALL, *(EVERYTHING if options == "everything" else []), f"run_name={options}"]
    with monkeypatch.context() as patched:
        kill_at(patched, Trainer, "_save_or_stop", step)
        with pytest.raises(Killed):
            distill("train", *arguments, "train.checkpoint_every_steps=1")
    code, _, err = distill("train", *arguments, "--resume")
    assert code == 0, err
    if step > 1:
        assert f"going on from step-{step - 1:08d}" in err
    assert contents(f"runs/{options}") == whole[options]


@pytest.mark.parametrize(
    ("target", "name", "call"),
    [
        (os, "fsync", 3),
        (os, "fsync", 20),
        (os, "fsync", 43),
        (checkpoints, "sync_folder", 5),
        (checkpoints.CheckpointFolder, "_keep", 4),
        (checkpoints.shutil, "rmtree", 9),
        (record.RunFolder, "metrics_size", 7),
        (Trainer, "_end_epoch", 2),
    ],
)
def test_run_killed_while_it_writes_or_evaluates_is_gone_on_with(target, name, call, whole, distill, monkeypatch):
    arguments = [*SMALL, *EVERYTHING, "run_name=everything", "train.checkpoint_every_steps=2"]
    with monkeypatch.context() as patched:
        kill_at(patched, target, name, call)
        with pytest.raises(Killed):
            distill("train", *arguments)
    code, _, err = distill("train", *arguments, "--resume")
    assert code == 0, err
    assert contents("runs/everything") == whole["everything"]
    assert not list(Path("runs/everything/checkpoints").glob(".tmp*"))


def test_run_killed_again_and_again(whole, distill, monkeypatch):
    arguments = [*SMALL, *EVERYTHING, "run_name=everything", "train.checkpoint_every_steps=3"]
    for call in (5, 2, 7, 1, 4):
        with monkeypatch.context() as patched:
            kill_at(patched, Trainer, "_save_or_stop", call)
            with pytest.raises(Killed):
                distill("train", *arguments, "--resume")
    assert distill("train", *arguments, "--resume")[0] == 0
    assert contents("runs/everything") == whole["everything"]


def cut_off(distill, monkeypatch, *options: str, step: int = 12) -> None:
    with monkeypatch.context() as patched:
        kill_at(patched, Trainer, "_save_or_stop", step)
        with pytest.raises(Killed):
            distill("train", *SMALL, "run_name=plain", "train.checkpoint_every_steps=4", *options)


def test_unfinished_run_is_not_begun_anew_without_being_asked(distill, monkeypatch):
    cut_off(distill, monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in Path("runs/plain").rglob("*")}
    code, _, err = distill("train", *SMALL, "run_name=plain")
    assert code == 3
    assert "runs/plain is not finished" in err
    assert "--resume" in err
    after = {path: path.stat().st_mtime_ns for path in Path("runs/plain").rglob("*")}
    assert {path: time for path, time in after.items() if before[path] != time} == {}


def test_run_is_gone_on_with_by_its_folder_alone(whole, distill, monkeypatch):
    cut_off(distill, monkeypatch)
    code, _, err = distill("train", "--resume", "runs/plain")
    assert code == 0, err
    assert "going on from step-00000010-epoch-0002" in err
    assert contents("runs/plain") == whole["plain"]
    code, out, err = distill("train", "--resume", "runs/plain")
    assert code == 0
    assert "finished already" in err
    assert "distilled student" in out


def test_run_killed_before_its_first_checkpoint_starts_again(whole, distill, monkeypatch):
    cut_off(distill, monkeypatch, step=3)
    assert not Path("runs/plain/checkpoints").exists()
    code, _, err = distill("train", *SMALL, "run_name=plain", "--resume")
    assert code == 0, err
    assert "going on" not in err
    assert contents("runs/plain") == whole["plain"]


def test_resume_begins_a_run_where_there_is_none_and_finds_the_finished_one_afterwards(distill):
    assert distill("train", *SMALL, "--resume", "train.max_steps=1")[0] == 0
    code, _, err = distill("train", *SMALL, "--resume", "train.max_steps=1")
    assert code == 0
    assert "runs/smoke-seed0 is finished already" in err
    assert [path.name for path in Path("runs").iterdir()] == ["smoke-seed0"]


def test_damaged_checkpoint_is_named_and_the_one_before_it_is_used(whole, distill, monkeypatch):
    cut_off(distill, monkeypatch)
    newest = sorted(Path("runs/plain/checkpoints").glob("step-*"))[-1]
    data = bytearray((newest / "student.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "student.safetensors").write_bytes(data)
    code, _, err = distill("train", "--resume", "runs/plain")
    assert code == 0, err
    assert f"checkpoint {newest} is damaged: student.safetensors has changed" in err
    assert "going on from step-00000008" in err
    assert contents("runs/plain") == whole["plain"]


def test_finished_run_keeps_its_best_checkpoint_and_no_other(distill):
    assert distill("train", *SMALL, "run_name=plain", "train.checkpoint_every_steps=1")[0] == 0
    best = Path("runs/plain/checkpoints/best").read_text().strip()
    assert [path.name for path in Path("runs/plain/checkpoints").glob("step-*")] == [best]
    values = {f"epoch-{line['epoch']:04d}": line["val_top1"] for line in metrics("runs/plain") if line["event"] == "epoch"}
    assert values[best[-10:]] == max(values.values())


def test_while_training_the_newest_and_the_best_are_kept(distill, monkeypatch):
    cut_off(distill, monkeypatch, "train.checkpoint_every_steps=1", "train.keep_checkpoints=3", step=20)
    names = {path.name for path in Path("runs/plain/checkpoints").glob("step-*")}
    best = Path("runs/plain/checkpoints/best").read_text().strip()
    assert names == {best, "step-00000017-epoch-0003", "step-00000018-epoch-0003", "step-00000019-epoch-0003"}
    assert Path("runs/plain/checkpoints/latest").read_text() == "step-00000019-epoch-0003"


def test_checkpoints_by_time(distill, monkeypatch):
    cut_off(distill, monkeypatch, "train.checkpoint_every_steps=null", "train.checkpoint_every_minutes=0.000001", step=3)
    assert len(list(Path("runs/plain/checkpoints").glob("step-*"))) == 2


def test_checkpoint_never_holds_the_teacher(distill, monkeypatch):
    cut_off(distill, monkeypatch, "teacher.model=resnet50")
    sizes = sum(path.stat().st_size for path in sorted(Path("runs/plain/checkpoints").glob("step-*"))[-1].iterdir())
    assert sizes < 4e6
    assert len(json.loads(next(Path("runs/plain/checkpoints").glob("step-*/state.json")).read_text())["teacher"]) == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.lr=0.06", "train.lr: 0.05 then, 0.06 now"),
        ("seed=3", "seed: 0 then, 3 now"),
        ("losses.at.weight=10", "losses.at.weight: not there then, 10.0 now"),
        ("data.arguments.num_train=48", "data.arguments.num_train: 40 then, 48 now"),
    ],
)
def test_run_goes_on_with_its_own_recipe_only(change, words, distill, monkeypatch):
    cut_off(distill, monkeypatch)
    for arguments in ([*SMALL, "run_name=plain", "--resume", change], ["--resume", "runs/plain", change]):
        code, _, err = distill("train", *arguments)
        assert code == 2
        assert words in err
    assert distill("train", "--resume", "runs/plain", "train.checkpoint_every_steps=9", "time_limit=60", "data.workers=1")[0] == 0


def test_other_pictures_or_another_teacher_are_refused(distill, monkeypatch):
    cut_off(distill, monkeypatch, "teacher.weights=random")
    state = next(iter(sorted(Path("runs/plain/checkpoints").glob("step-*"), reverse=True))) / "state.json"
    original = json.loads(state.read_text())
    for key, words in (("data", "the pictures are not those"), ("teacher", "the teacher's weights are not those")):
        state.write_text(json.dumps(original | {key: "0" * 64}))
        remake_manifest(state.parent)
        code, _, err = distill("train", "--resume", "runs/plain")
        assert code == 3
        assert words in err


def remake_manifest(folder: Path) -> None:
    from distill.models.weight_files import file_sha256

    files = {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in folder.iterdir() if path.name != "MANIFEST.json"}
    (folder / "MANIFEST.json").write_text(json.dumps({"format": 1, "files": files}))


def test_metrics_of_steps_after_the_checkpoint_are_taken_back(distill, monkeypatch, whole):
    cut_off(distill, monkeypatch, step=12)
    assert metrics("runs/plain")[-1]["step"] == 12
    assert distill("train", "--resume", "runs/plain")[0] == 0
    assert [line["step"] for line in metrics("runs/plain") if line["event"] == "train"] == [3, 6, 9, 12, 15, 18, 21, 22]


def test_student_alone_that_was_cut_off_is_gone_on_with(distill, monkeypatch):
    arguments = [*SMALL, "control=true", "run_name=plain", "train.checkpoint_every_steps=2"]
    with monkeypatch.context() as patched:
        kill_at(patched, Trainer, "_save_or_stop", 9)
        with pytest.raises(Killed):
            distill("train", *arguments)
    assert not Path("runs/plain/metrics.jsonl").exists()
    code, _, err = distill("train", "--resume", "runs/plain")
    assert code == 0, err
    assert "going on from step-00000008" in err
    assert sorted(path.name for path in Path("runs").iterdir()) == ["plain", "plain-alone"]
    first = contents("runs/plain-alone")
    shutil.rmtree("runs")
    assert distill("train", *arguments)[0] == 0
    assert contents("runs/plain-alone") == first


def test_run_that_is_killed_when_it_is_scored_trains_nothing_again(distill, monkeypatch, whole):
    from distill import run_results

    with monkeypatch.context() as patched:
        kill_at(patched, run_results, "_score", 2)
        with pytest.raises(Killed):
            distill("train", *SMALL, "run_name=plain")
    monkeypatch.setattr(Trainer, "_update", lambda self: pytest.fail("a step is trained again"))
    code, _, err = distill("train", "--resume", "runs/plain")
    assert code == 0, err
    assert contents("runs/plain") == whole["plain"]


def send(monkeypatch, numbers: list[int], step: int) -> None:
    """Signals to this process in the middle of a step."""
    original = Trainer._update

    def update(self):
        if self.step == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        original(self)

    monkeypatch.setattr(Trainer, "_update", update)


@pytest.mark.parametrize(
    ("numbers", "code", "reason"),
    [
        ([signal.SIGTERM], 75, "SIGTERM"),
        ([signal.SIGUSR1], 75, "SIGUSR1"),
        ([signal.SIGINT], 130, "Ctrl-C"),
        ([signal.SIGTERM, signal.SIGTERM], 75, "SIGTERM"),
        ([signal.SIGINT, signal.SIGTERM], 130, "Ctrl-C"),
    ],
)
def test_signal_ends_the_step_saves_and_says_how_to_go_on(numbers, code, reason, distill, monkeypatch, whole):
    with monkeypatch.context() as patched:
        send(patched, numbers, step=7)
        found, _, err = distill("train", *SMALL, "run_name=plain")
    assert found == code
    assert f"{reason}: stopping after this step" in err
    assert f"stopped by {reason}" in err
    assert "distill train --resume runs/plain" in err
    assert "error" not in err
    assert status("runs/plain")["state"] == "stopped"
    assert status("runs/plain")["exit_code"] == code
    assert Path("runs/plain/checkpoints/latest").read_text() == "step-00000008-epoch-0001"
    assert distill("train", "--resume", "runs/plain")[0] == 0
    assert contents("runs/plain") == whole["plain"]


def test_second_interrupt_stops_at_once(distill, monkeypatch, whole):
    with monkeypatch.context() as patched:
        send(patched, [signal.SIGINT, signal.SIGINT], step=7)
        code, _, err = distill("train", *SMALL, "run_name=plain", "train.checkpoint_every_steps=3")
    assert code == 130
    assert "--resume runs/plain" in err
    assert status("runs/plain")["state"] == "interrupted"
    assert Path("runs/plain/checkpoints/latest").read_text() == "step-00000006-epoch-0001"
    assert distill("train", "--resume", "runs/plain")[0] == 0
    assert contents("runs/plain") == whole["plain"]


def test_signal_in_an_evaluation_saves_and_the_evaluation_is_done_again(distill, monkeypatch, whole):
    from distill.build import trainer as build

    original, calls = build.score, []

    def score(*arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(build, "score", score)
        assert distill("train", *SMALL, "run_name=plain")[0] == 75
    assert Path("runs/plain/checkpoints/latest").read_text() == "step-00000010-epoch-0001"
    assert distill("train", "--resume", "runs/plain")[0] == 0
    assert contents("runs/plain") == whole["plain"]


def test_signal_before_training_stops_at_once(distill, monkeypatch):
    from distill import job

    monkeypatch.setattr(job, "open_source", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    code, _, err = distill("train", *SMALL)
    assert code == 75
    assert "stopped by SIGTERM" in err
    assert status("runs/smoke-seed0")["state"] == "stopped"


def test_time_limit_of_the_recipe(distill, monkeypatch, whole):
    code, _, err = distill("train", *SMALL, "run_name=plain", "time_limit=0.0001")
    assert code == 75
    assert "stopped by its time limit" in err
    assert distill("train", "--resume", "runs/plain", "time_limit=null")[0] == 0
    assert contents("runs/plain") == whole["plain"]


def test_handlers_are_put_back(distill):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    assert distill("train", *SMALL, "train.max_steps=1")[0] == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before


def test_sweep_with_resume_takes_a_name_for_each_recipe(distill, monkeypatch):
    """Without a fixed name, another recipe's unfinished run of the same name is no obstacle, and each is found again."""
    for rate in ("0.05", "0.01"):
        with monkeypatch.context() as patched:
            kill_at(patched, Trainer, "_save_or_stop", 4)
            with pytest.raises(Killed):
                distill("train", *SMALL, f"train.lr={rate}", "--resume", "train.checkpoint_every_steps=1")
    Path("runs/smoke-seed0-3").mkdir()
    Path("runs/smoke-seed0-3/recipe.resolved.yaml").write_text("broken: [")
    Path("runs/latest").symlink_to("nowhere")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["latest", "smoke-seed0", "smoke-seed0-2", "smoke-seed0-3"]
    for rate, name in (("0.01", "smoke-seed0-2"), ("0.05", "smoke-seed0")):
        code, _, err = distill("train", *SMALL, f"train.lr={rate}", "--resume")
        assert code == 0, err
        assert "going on from step-00000003" in err
        assert status(f"runs/{name}")["state"] == "finished"


def test_fixed_name_is_that_name_and_no_other(distill, monkeypatch):
    with monkeypatch.context() as patched:
        kill_at(patched, Trainer, "_save_or_stop", 4)
        with pytest.raises(Killed):
            distill("train", *SMALL, "run_name=kd-2")
    assert distill("train", *SMALL, "run_name=kd", "--resume")[0] == 0
    assert status("runs/kd")["state"] == "finished"
    assert status("runs/kd-2")["state"] != "finished"


def test_run_is_gone_on_with_from_inside_its_folder_and_through_a_link(distill, monkeypatch):
    arguments = [*SMALL, "control=true", "run_name=plain", "train.checkpoint_every_steps=2"]
    with monkeypatch.context() as patched:
        kill_at(patched, Trainer, "_save_or_stop", 9)
        with pytest.raises(Killed):
            distill("train", *arguments)
    here = Path.cwd()
    recipe = Path("runs/plain/recipe.resolved.yaml").read_text()
    with monkeypatch.context() as patched:
        patched.chdir("runs/plain")
        kill_at(patched, Trainer, "_save_or_stop", 6)
        with pytest.raises(Killed):
            distill("train", "--resume", ".")
    Path("current").symlink_to("runs/plain")
    code, _, err = distill("train", "--resume", "current/")
    assert code == 0, err
    assert sorted(path.name for path in Path("runs").iterdir()) == ["plain", "plain-alone"]
    assert not (here / "current-alone").exists()
    assert Path("runs/plain/recipe.resolved.yaml").read_text() == recipe


def test_teacher_file_may_lie_elsewhere_when_the_run_goes_on(distill, monkeypatch):
    assert distill("train", *SMALL, "run_name=teach", "teacher=null", "losses.kd=null")[0] == 0
    cut_off(distill, monkeypatch, "teacher.weights=runs/teach/student.safetensors")
    Path("runs/teach/student.safetensors").rename("moved.safetensors")
    code, _, err = distill("train", "--resume", "runs/plain", "teacher.weights=moved.safetensors")
    assert code == 0, err


def test_hint_how_to_go_on_names_the_plugins(distill, monkeypatch):
    plugin = str(Path(__file__).parent / "odd_losses.py")
    monkeypatch.setenv("STOP_AT", "3")
    code, _, err = distill("train", *SMALL, "run_name=plain", "losses.asks_to_stop={weight: 0}", "--plugin", plugin)
    assert code == 75
    assert f"to go on: distill train --resume runs/plain --plugin {plugin}" in err
    monkeypatch.delenv("STOP_AT")
    assert distill("train", "--resume", "runs/plain", "--plugin", plugin)[0] == 0


def test_teacher_that_was_trained_and_killed_before_it_got_its_name_is_not_trained_again(distill, monkeypatch, tmp_path):
    from distill import teacher_store

    arguments = [
        *SMALL,
        "teacher.weights=train",
        "teacher.recipe=r18_alone",
        "teacher.overrides={train: {epochs: 1, warmup_epochs: 0, max_steps: 2}}",
    ]
    arguments += ["teacher.overrides.data.global_batch_size=8"]
    with monkeypatch.context() as patched:
        original = Path.rename
        patched.setattr(Path, "rename", lambda self, to: (_ for _ in ()).throw(Killed) if self.suffix == ".unfinished" else original(self, to))
        with pytest.raises(Killed):
            distill("train", *arguments)
    trained = []
    original_run = teacher_store.train_run
    monkeypatch.setattr(teacher_store, "train_run", lambda *a, **k: trained.append(1) or original_run(*a, **k))
    code, _, err = distill("train", *arguments, "--resume")
    assert code == 0, err
    assert trained == []


def test_time_limit_counts_while_another_job_trains_the_teacher(distill, tmp_path):
    from filelock import FileLock

    arguments = [
        *SMALL,
        "teacher.weights=train",
        "teacher.recipe=r18_alone",
        "teacher.overrides={train: {epochs: 1, warmup_epochs: 0, max_steps: 2}}",
    ]
    arguments += ["teacher.overrides.data.global_batch_size=8"]
    assert distill("train", *arguments)[0] == 0
    (lock_file,) = (tmp_path / "cache" / "teachers").glob("*.lock")
    with FileLock(lock_file, thread_local=False):
        code, _, err = distill("train", *arguments, "run_name=other", "time_limit=0.001")
    assert code == 75
    assert "stopped by its time limit" in err


def test_run_that_diverged_and_was_mended_is_a_run_like_others(distill, monkeypatch):
    plugin = Path("mine.py")
    text = (Path(__file__).parent / "odd_losses.py").read_text()
    plugin.write_text(text)
    arguments = [*SMALL, "losses.not_finite={weight: 1, sample_id: 7, view: 1}", "--plugin", "mine.py", "run_name=plain"]
    assert distill("train", *arguments, "train.checkpoint_every_steps=2")[0] == 4
    assert Path("runs/plain/diverged.json").exists()
    plugin.write_text(text.replace("0.0 if is_bad else 1.0", "1.0"))
    code, _, err = distill("train", "--resume", "runs/plain", "--plugin", "mine.py")
    assert code == 0, err
    assert not Path("runs/plain/diverged.json").exists()


def test_learning_rate_that_overflows_leaves_no_checkpoint_of_infinite_weights(distill):
    from safetensors.torch import load_file

    options = ["train.lr=3e38", "losses.ce.weight=1000", "train.checkpoint_every_steps=1"]
    code, _, err = distill("train", *SMALL, *options, "run_name=plain")
    assert code == 4
    assert "weights had become infinite" in err or "nothing of that step reached the weights" in err
    for path in Path("runs/plain/checkpoints").glob("step-*/*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_leftover_of_a_job_that_was_killed_while_it_wrote_is_no_obstacle(distill):
    Path("runs/plain").mkdir(parents=True)
    Path("runs/plain/.status.json.123.tmp").write_text("{")
    assert distill("train", *SMALL, "run_name=plain", "train.max_steps=1", "--resume")[0] == 0
    assert not list(Path("runs/plain").glob(".*.tmp"))
