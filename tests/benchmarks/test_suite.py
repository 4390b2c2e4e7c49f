"""The suite's own parts: ratios, the comparison that fails, the page, and trees. No cluster runs here."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.suite import compare, goals, plots, tables, trees
from benchmarks.suite.cluster import PROJECT, Implementation, Node
from benchmarks.suite.echo_probe import Echoes
from benchmarks.suite.results import Row, micro_ratios, ratios, save


def rows_of(ours_s: float, theirs_s: float = 6.0) -> list[Row]:
    def of(job: str, size: str, who: str, variant: str = "", **figures: float) -> Row:
        return Row(job, size, who, figures, variant, tuple(figures)[:1])

    return [
        of("fan-out", "20000 files, 1 workers", "reference", seconds=3.0, master_cpu_s=1.0),
        of("fan-out", "20000 files, 5 workers", "reference", seconds=theirs_s, master_cpu_s=5.0),
        of("fan-out", "20000 files, 1 workers", "clusterd", seconds=1.0, master_cpu_s=0.5),
        of("fan-out", "20000 files, 5 workers", "clusterd", seconds=ours_s, master_cpu_s=0.6),
        of("idle check", "1000 files, 10 workers", "clusterd", "digest", cpu_ms=0.3),
        of("idle check", "200000 files, 10 workers", "clusterd", "digest", cpu_ms=0.7),
    ]


def test_a_ratio_says_how_many_times_better_than_the_reference_of_the_same_size() -> None:
    found = ratios(rows_of(2.0))
    assert found == {
        "fan-out, 20000 files, 1 workers, seconds": 3.0,
        "fan-out, 20000 files, 5 workers, seconds": 3.0,
    }


def test_a_skipped_row_has_no_ratio() -> None:
    rows = rows_of(2.0)
    rows[3] = Row("fan-out", "20000 files, 5 workers", "clusterd", keys=("seconds",), skipped="it cannot")
    assert list(ratios(rows)) == ["fan-out, 20000 files, 1 workers, seconds"]


def test_comparison_finds_a_ratio_that_got_worse_beyond_the_tolerance() -> None:
    before = ratios(rows_of(2.0))
    assert compare.compare(before, ratios(rows_of(2.5)), 0.3).is_good
    verdict = compare.compare(before, ratios(rows_of(4.0)), 0.3)
    assert not verdict.is_good
    assert verdict.worse == [("fan-out, 20000 files, 5 workers, seconds", 3.0, 1.5)]


def test_a_slower_machine_is_no_regression() -> None:
    verdict = compare.compare(ratios(rows_of(2.0)), ratios(rows_of(8.0, theirs_s=24.0)), 0.1)
    assert verdict.is_good


def test_nothing_to_compare_is_not_good() -> None:
    verdict = compare.compare({"a": 1.0}, {"b": 1.0}, 0.3)
    assert (verdict.is_good, verdict.missing, verdict.new) == (False, ["a"], ["b"])


@pytest.mark.slow
@pytest.mark.parametrize(("ours_s", "code"), [(2.0, 0), (9.0, 1)])
def test_the_command_exits_non_zero_for_a_worse_run(tmp_path: Path, ours_s: float, code: int) -> None:
    baseline, out = tmp_path / "baseline.json", tmp_path / "latest.json"
    compare.save(baseline, ratios(rows_of(2.0)))
    save(out, rows_of(ours_s), {}, "full", "/dev/shm")
    line = [sys.executable, "-m", "benchmarks.suite", "compare", "--baseline", str(baseline), "--out", str(out)]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("WORSE" in done.stdout) == bool(code)


def test_a_baseline_keeps_what_another_run_has_saved(tmp_path: Path) -> None:
    compare.save(tmp_path / "b", {"quick": 2.0, "both": 1.0})
    compare.save(tmp_path / "b", {"full": 3.0, "both": 1.5})
    assert compare.load(tmp_path / "b") == {"quick": 2.0, "full": 3.0, "both": 1.5}


def test_single_pieces_are_compared_with_the_limit_of_their_group() -> None:
    def one(group: str, name: str, low: float) -> dict[str, object]:
        return {"group": group, "name": name, "stats": {"min": low}}

    report = {"benchmarks": [one("g", "test_ours", 4.0), one("g", "test_limit_bare", 1.0), one("h", "test_alone", 1.0)]}
    assert micro_ratios(report) == {"micro, g, test_ours": 0.25}


def test_goals_say_reached_or_not_or_not_measured() -> None:
    rows = rows_of(2.0)
    found = {(goal.job, goal.to_reach): goal for goal in goals.judge(rows, ratios(rows))}
    fan_out = found["fan-out, 5 fresh workers", "3 times the reference"]
    assert (fan_out.measured, fan_out.is_reached) == ("3.0 times", True)
    check = found["idle check, clusterd worker", "under 0.5 ms of CPU, any number of files"]
    assert (check.measured, check.is_reached) == ("0.3 - 0.7 ms", False)
    assert found["repeat manifest, full walk", "5 times the reference"].is_reached is None


@pytest.mark.slow
def test_the_page_keeps_what_people_wrote(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{tables.BEGIN}\nold\n{tables.END}\nbelow\n")
    report = save(tmp_path / "r.json", rows_of(2.0), {"stat_us": 2.0}, "full", "/dev/shm")
    drawn = plots.draw(report, tmp_path / "plots", "plots")
    tables.put_between_marks(page, tables.render(report, None, drawn))
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "old" not in text
    assert "| 20000 files, 5 workers | clusterd | 2 | 0.6 | 3 |" in text
    assert "](plots/fanout.svg)" in text
    first = (tmp_path / "plots/fanout.svg").read_bytes()
    plots.draw(report, tmp_path / "plots", "plots")
    assert (tmp_path / "plots/fanout.svg").read_bytes() == first
    page.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the marks"):
        tables.put_between_marks(page, "text")


def test_the_page_of_this_project_has_the_marks() -> None:
    text = (PROJECT / "docs/benchmarks.md").read_text()
    assert text.index(tables.BEGIN) < text.index(tables.END)


def test_the_saved_baseline_can_be_read() -> None:
    assert all(value > 0 for value in compare.load(compare.BASELINE).values())


def test_a_flat_tree_moves_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "master").mkdir()
    trees.flat_tree(tmp_path / "stage", 30, 100)
    assert trees.size_of(tmp_path / "stage") == (30, 3000)
    digest = trees.content_digest_of(tmp_path / "stage")
    trees.move(tmp_path / "stage", tmp_path / "master")
    assert trees.size_of(tmp_path / "stage") == (0, 0)
    assert trees.content_digest_of(tmp_path / "master") == digest


def test_a_peer_command_is_a_shell_line_with_quoted_values() -> None:
    peer = Implementation("peer", "exec daemon -r {root} --as {role}", is_ours=False)
    line = peer.line(Node("w1", "worker", Path("/tmp/a b"), 1516, peer))
    assert line == ["/bin/sh", "-c", "exec daemon -r '/tmp/a b' --as worker"]


def test_echoes_outside_the_time_do_not_count() -> None:
    found = Echoes([(n / 10, 0.001 if 1 <= n <= 20 else 1.0) for n in range(40)])
    figures = found.figures(0.1, 2.0)
    assert figures["echo_max_ms"] == pytest.approx(1.0)
    assert found.figures(3.95, 4.0) == {}
