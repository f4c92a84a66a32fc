"""`compare()`: runs every arm and seed in parallel, and resumes an existing comparison."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fedmeta.comparison import arms as choosing
from fedmeta.comparison import search
from fedmeta.comparison.jobs import Pool, default_jobs
from fedmeta.comparison.plans import ArmPlan, plan_arms
from fedmeta.comparison.record import COMPARE, later_version, written
from fedmeta.comparison.run_reuse import Note, RunFinder, run_key
from fedmeta.comparison.status import ArmRun, ArmStatus, ComparisonStatus, Job, Question, Status
from fedmeta.comparison.worker import Order
from fedmeta.config import Config
from fedmeta.config.trust import require_no_links
from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment import planning
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.made_with import provenance
from fedmeta.experiment.result import ignore
from fedmeta.experiment.swap import load
from fedmeta.files import is_unfinished
from fedmeta.tasks import last_family_kept

SEEDS = 3
LOG = "workers.log"


@dataclass(frozen=True)
class CompareListener:
    """Callbacks of a comparison; each is optional.

    Attributes:
        began: Called with the comparison's folder and its runs; if it searches for settings, first with
            the runs of the search.
        changed: Called with a run that started, finished or failed.
        progress: Called with a run, its number of finished rounds and its total number.
        note: Called with a line about each finding.
        failure: Called with the traceback of each kind of client failure.
    """

    began: Callable[[Path, Sequence[Job]], None] = ignore
    changed: Callable[[Job], None] = ignore
    progress: Callable[[Job, int, int], None] = ignore
    note: Note = ignore
    failure: Callable[[str], None] = ignore


@dataclass(frozen=True)
class Execution:
    """How a comparison is executed, which does not change its result.

    Attributes:
        out: Its folder; None: ``runs/compare-<experiment>``.
        jobs: Runs at once; None: the number of cores, or fewer if memory is short; one on a GPU.
        listener: Watches it.
        check: Whether to check your own model, algorithm or task family on a tiny batch first.
    """

    out: Path | str | None = None
    jobs: int | None = None
    listener: CompareListener = field(default_factory=CompareListener)
    check: bool = True


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        folder: Its folder.
        data: The contents of its ``compare.json``.
        failures: A line about each run that failed.
    """

    folder: Path
    data: dict[str, Any]
    failures: tuple[str, ...]

    @property
    def status(self) -> str:
        """``finished``, or ``failed`` if a run failed."""
        return str(self.data["status"])


def compare(
    experiment: str | Config,
    settings: Mapping[str, Any] | None = None,
    *,
    arms: Sequence[str] | None = None,
    seeds: int = SEEDS,
    execution: Execution | None = None,
) -> Comparison:
    """Compare arms of an experiment, with one task budget and over several seeds.

    Calling it again resumes the comparison: finished runs are reused, interrupted ones resumed. Your own
    arm is a setting, such as ``{"compare.arms.fewer.cohort": 8}``.

    Args:
        experiment: A name or TOML path, or a config.
        settings: Values by dotted key that replace the config's.
        arms: Names of arms, the first of which the others are compared with; None: all arms.
        seeds: Number of seeds, from the config's ``seed`` on.
        execution: How to execute it.

    Returns:
        The result, even if some runs failed.

    Raises:
        UsageError: If the request is invalid; nothing was changed on disk.
        KeyboardInterrupt: If it was interrupted; finished runs are kept.
    """
    execution = execution or Execution()
    name = "run" if isinstance(experiment, Config) else Path(experiment).stem
    config, left_out = load(experiment, settings)
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds}: a comparison needs at least one")
    if execution.jobs is not None and execution.jobs < 1:
        raise ConfigError(f"jobs = {execution.jobs}: must be at least 1")
    folder = Path(execution.out or Path("runs") / f"compare-{name}")
    _require_comparison_of(name, folder)
    with last_family_kept():
        question = _question(config, execution.check)
        chosen, notes = choosing.choose(question.base, arms, settings)
        plans = plan_arms(config, chosen, [config.seed + k for k in range(seeds)], execution.check)
        candidates = search.plan_search(config, chosen, execution.check)
        finder = RunFinder(folder, execution.listener.note)
        for one in (
            *(one for plan in plans for one in plan.configs),
            *(one.config for one in candidates),
        ):
            finder.made(one)  # may refuse the config, so call it before making the folder
    with _opened(folder):
        for line in (*map(str, left_out), *notes, *_left_out(plans)):
            execution.listener.note(line)
        about = {"experiment": name, **provenance()}
        trials = _trials(candidates, finder)
        searched = partial(_searched, trials, question)
        progress = ComparisonStatus(folder, question, _arm_statuses(plans, finder), about, searched)
        if trials:
            _carry_out(progress, [trial.job for trial in trials], execution)
            plans = _with_best(config, plans, trials, question, execution.listener.note)
            found = _arm_statuses(plans, RunFinder(folder, execution.listener.note))
            progress = ComparisonStatus(folder, question, found, about, searched)
        _carry_out(progress, progress.jobs, execution)
        failures = tuple(progress.failures)
        progress.status = "failed" if failures else "finished"
        return Comparison(folder, progress.write(), failures)


def _left_out(plans: Sequence[ArmPlan]) -> Iterator[str]:
    """Yield a line about each option that an arm of the experiment or the user drops."""
    for plan in plans:
        if plan.arm.name not in choosing.BUILT_IN or plan.arm.loose:
            yield from (f"arm '{plan.arm.name}': {one}" for one in plan.left_out)


def _question(config: Config, check: bool) -> Question:
    if not config.test_clients:
        raise ConfigError("a comparison needs test_clients of at least 1, to test all arms on")
    if not config.rounds:
        raise ConfigError("rounds = 0: a comparison needs at least 1, for its budget of training tasks")
    base = planning.resolve(config)
    learner = planning.check(base, check)
    objective = learner.algorithm.objective
    question = Question(base, objective.main, objective.all_measures[objective.main])
    if question.step not in question.steps:
        raise ConfigError(
            f"compare.step = {question.step} is not in evaluation.steps = {list(question.steps)}"
        )
    return question


def _require_comparison_of(name: str, folder: Path) -> None:
    """Refuse a folder that exists, but not as a comparison of this experiment by this version.

    Raises:
        UsageError: Naming the folder.
    """
    require_no_links(folder)
    if folder.exists() and not (folder / COMPARE).is_file() and _holds_more_than_a_lock(folder):
        raise UsageError(f"{folder} exists and is not a comparison: choose another --out")
    before = written(folder)
    if later := later_version(before):
        raise UsageError(f"{folder / COMPARE}: {later}, or choose another --out")
    other = before.get("experiment", name)
    if other != name:
        raise UsageError(f"{folder} is a comparison of '{other}': choose another --out")


@contextmanager
def _opened(folder: Path) -> Iterator[None]:
    """Make or reuse the comparison's folder, and lock it for this process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
    with RunFolder(folder).locked():
        yield


def _holds_more_than_a_lock(folder: Path) -> bool:
    # A comparison that was killed at its start leaves only that, and perhaps an incomplete first file.
    return not folder.is_dir() or any(
        path.name != "run.lock" and not is_unfinished(path) for path in folder.iterdir()
    )


def _arm_statuses(plans: Sequence[ArmPlan], finder: RunFinder) -> list[ArmStatus]:
    jobs: dict[str, Job] = {}
    found = []
    for plan in plans:
        arm_runs = []
        for config in plan.configs:
            what = run_key(config)
            shared = what in jobs
            if not shared:
                name = f"{plan.arm.name}-seed{config.seed}"
                slot = finder.find(name, config)
                done = slot.state == "finished"
                status: Status = "finished" if done else "waiting"
                jobs[what] = Job(name, config, finder.made(config), slot, status)
            arm_runs.append(ArmRun(jobs[what], shared or jobs[what].status == "finished"))
        found.append(ArmStatus(plan, tuple(arm_runs)))
    return found


def _trials(candidates: Sequence[search.Candidate], finder: RunFinder) -> list[search.Trial]:
    """Return a run for each candidate, named after its arm and its place in the arm's search."""
    count: Counter[str] = Counter()
    found = []
    for one in candidates:
        count[one.arm] += 1
        name = f"{search.PREFIX}{one.arm}-{count[one.arm]}"
        slot = finder.find(name, one.config)
        status: Status = "finished" if slot.state == "finished" else "waiting"
        found.append(search.Trial(one, Job(name, one.config, finder.made(one.config), slot, status)))
    return found


def _searched(trials: Sequence[search.Trial], question: Question) -> dict[str, list[dict[str, Any]]]:
    return {arm: search.as_json(own, question) for arm, own in search.by_arm(trials).items()}


def _with_best(
    config: Config,
    plans: Sequence[ArmPlan],
    trials: Sequence[search.Trial],
    question: Question,
    note: Note,
) -> list[ArmPlan]:
    """Plan the arms again, with the settings that were best on the validation clients."""
    own = search.by_arm(trials)
    seeds = [one.seed for one in plans[0].configs]
    chosen = {name: search.best(some, question) for name, some in own.items()}
    for name in (name for name, one in chosen.items() if one is None):
        note(f"arm '{name}': every run of its search failed, so it keeps its own settings")
    arms = [search.with_settings(plan.arm, chosen.get(plan.arm.name)) for plan in plans]
    return plan_arms(config, arms, seeds, check=False)


def _tell_of_other_versions(jobs: Sequence[Job], about: Mapping[str, Any], note: Note) -> None:
    # Other versions of packages may round differently; the code of finished runs has not changed.
    finished = [job for job in jobs if job.status == "finished"]
    now = about["versions"]
    other = [job for job in finished if RunFolder(job.slot.path).info.get("versions") != now]
    if other:
        note(
            f"{len(other)} of {len(finished)} finished runs, such as {other[0].slot.path}, were made "
            "with other versions of packages: using them anyway; delete their folders to run them again"
        )


def _carry_out(progress: ComparisonStatus, jobs: Sequence[Job], execution: Execution) -> None:
    """Do the runs that are not finished; each that fails is noted down as failed."""
    listener = execution.listener
    _tell_of_other_versions(jobs, progress.about, listener.note)
    listener.began(progress.folder, jobs)
    # Longest first: a long run that starts last would keep one core busy and the others idle.
    todo = sorted((job for job in jobs if job.status == "waiting"), key=lambda job: -job.cost)
    progress.write()
    # Runs on a GPU would only wait for each other.
    usual = 1 if any(job.config.device == "cuda" for job in todo) else default_jobs()
    try:
        with Pool(min(len(todo), execution.jobs or usual), progress.folder / LOG) as pool:
            for place, message in pool.run([_order(job, progress) for job in todo]):
                _note_down(progress, todo[place], message, listener)
    except BaseException:
        for job in todo:
            job.status = "interrupted" if job.status == "running" else job.status
        progress.status = "interrupted"
        progress.write()
        raise


def _order(job: Job, progress: ComparisonStatus) -> Order:
    return Order(
        path=job.slot.path,
        config=job.config.model_dump(),
        made=job.made,
        begun=job.slot.state == "begun",
        experiment=progress.about["experiment"],
        command=tuple(sys.argv),
    )


def _note_down(progress: ComparisonStatus, job: Job, message: Any, listener: CompareListener) -> None:
    if message is not None and message[0] == "progress":
        listener.progress(job, message[1], message[2])
        return
    if message is not None and message[0] == "note":
        listener.note(f"{job.name}: {message[1]}")
        return
    if message is not None and message[0] == "traceback":
        listener.failure(f"{job.name}, {message[1]}")
        return
    if message is None:
        job.status = "running"
    elif message[0] == "done":
        job.status = "finished"
    else:
        job.status, job.error = "failed", message[1]
    progress.write()
    listener.changed(job)
