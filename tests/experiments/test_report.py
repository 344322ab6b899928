"""``promptvit report``: made-up runs in, numbers that can be checked by hand out, in every format."""

import csv
import html.parser
import io
import json
import statistics

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from made_up import run, sweep

from promptvit.experiments import suites
from promptvit.experiments.published import kind_of, published, quotes
from promptvit.experiments.report import RENDERERS, make_report, markdown, write_report
from promptvit.experiments.report.build import build
from promptvit.experiments.results import Row, read_results
from promptvit.training.settings import WHERE

SUP, NASTY = "vit_base_patch16_224.augreg_in21k", "<script>alert(1)</script>|*_$%&#~^\\{}"
VTAB = [task for tasks in suites.groups("vtab").values() for task in tasks]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def render(report, kind: str) -> str:
    return RENDERERS[kind][1](report)


def vtab(folder, *, tasks=VTAB, seeds=(0, 1), **more):
    """Task i: 10 + i * i / 5 percent, and two points more per seed."""
    return [run(folder, task, (10 + i * i / 5 + 2 * seed) / 100, seed=seed, **more) for i, task in enumerate(tasks) for seed in seeds]


def test_mean_and_deviation_over_seeds(tmp_path):
    for seed, accuracy in enumerate((0.5, 0.6, 0.8)):
        run(tmp_path, "digits", accuracy, seed=seed)
    run(tmp_path, "digits", None, seed=3)
    (section,) = make_report([tmp_path]).sections
    (entry,) = section.entries
    cell = entry.cells["digits"]
    assert (cell.measure.n, cell.seeds, cell.diverged, cell.failed) == (3, (0, 1, 2), 1, 0)
    assert cell.measure.mean == pytest.approx(1.9 / 3) and cell.measure.std == pytest.approx(0.1527525)
    assert cell.share == 0.01 and entry.mean_tasks is None, "data sets outside the suites have no overall mean"
    text = markdown.render(make_report([tmp_path]))
    assert "63.33 ± 15.28 (1 diverged)" in text


def test_both_overall_means_and_their_deviations(tmp_path):
    vtab(tmp_path)
    (section,) = make_report([tmp_path]).sections
    (entry,) = section.entries
    base = {task: 10 + i * i / 5 for i, task in enumerate(VTAB)}
    groups = [[base[task] for task in tasks] for tasks in suites.groups("vtab").values()]
    assert entry.mean_tasks.mean == pytest.approx((statistics.fmean(base.values()) + 1) / 100)
    assert entry.mean_groups.mean == pytest.approx((statistics.fmean(map(statistics.fmean, groups)) + 1) / 100)
    assert abs(entry.mean_tasks.mean - entry.mean_groups.mean) > 0.005, "the two are not the same thing"
    for measure in (entry.mean_tasks, entry.mean_groups, *entry.groups.values()):
        assert measure.std == pytest.approx(statistics.stdev([0, 0.02])) and measure.n == 2
    text = markdown.render(make_report([tmp_path]))
    assert "mean of 19 tasks | mean of 3 groups" in text and f"{100 * entry.mean_groups.mean:.2f} ± 1.41" in text


def test_a_missing_task_leaves_means_out_and_says_how_many_there_are(tmp_path):
    vtab(tmp_path, tasks=VTAB[1:])
    report = make_report([tmp_path])
    entry = report.sections[0].entries[0]
    assert entry.mean_tasks is None and entry.mean_groups is None and entry.groups["Natural"] is None
    assert entry.groups["Specialized"] and entry.groups["Structured"]
    text = markdown.render(report)
    assert "| 6 of 7 tasks |" in text and "| 18 of 19 tasks | 18 of 19 tasks |" in text
    levels = {row["level"] for row in rows_of(render(report, "csv")) if row["origin"] == "own"}
    assert levels == {"task", "group"}


def test_unequal_seeds_give_a_mean_without_a_deviation(tmp_path):
    vtab(tmp_path)
    run(tmp_path, VTAB[0], 0.9, seed=2)
    entry = make_report([tmp_path]).sections[0].entries[0]
    assert (entry.mean_tasks.std, entry.mean_tasks.n) == (None, 2) and entry.groups["Structured"].std is not None


def test_search_runs_are_cost_and_no_result(tmp_path):
    final = run(tmp_path / "runs", "digits", 0.5)
    searches = [run(tmp_path / "runs", "digits", 0.99, split="val", settings={"lr": lr}) for lr in (1.0, 2.0)]
    jobs = [{"label": "vpt", "task": "digits", "seed": 0, "phase": "search", "hash": s["settings_hash"], "status": "ok"} for s in searches]
    jobs.append({"label": "vpt", "task": "digits", "seed": 0, "phase": "final", "hash": final["settings_hash"], "status": "ok"})
    sweep(tmp_path, [], jobs)
    entry = make_report([tmp_path]).sections[0].entries[0]
    assert entry.label == "vpt" and entry.cells["digits"].measure.mean == 0.5
    assert entry.cells["digits"].search.model_dump() == {"runs": 2, "epochs": 20, "seconds": 60.0}
    stated = {"runs": 7, "epochs": 70, "seconds": 3.5}
    sweep(tmp_path, [final | {"label": "vpt", "phase": "final", "chosen": {}, "search": stated}], jobs)
    assert make_report([tmp_path]).sections[0].entries[0].cells["digits"].search.model_dump() == stated
    with pytest.raises(ValueError, match="no finished run with a result on the test split"):
        build([row for row in read_results([tmp_path]) if row.phase == "search"])


def test_failed_jobs_are_counted(tmp_path):
    done = run(tmp_path / "runs", "digits", 0.5)
    failed = {"label": "vpt", "task": "digits", "seed": 1, "phase": "final", "hash": "gone", "status": "failed", "error": "out of memory"}
    sweep(tmp_path, [done | {"label": "vpt"}], [failed, failed | {"label": "never", "hash": "never"}])
    report = make_report([tmp_path])
    assert report.sections[0].entries[0].cells["digits"].failed == 1
    assert "50.00 (1 failed)" in markdown.render(report)
    assert any("never on digits, seed 1: failed (out of memory)" in line for line in report.left_out)


def test_runs_of_other_settings_are_kept_apart(tmp_path):
    for seed in (0, 1):
        for prompts in (5, 10):
            run(tmp_path, "digits", prompts / 100, seed=seed, settings={"options": {"num_prompts": prompts}})
        run(tmp_path, "fgvc/cub", 0.3, seed=seed, settings={"lr": 9.0, "options": {"num_prompts": 5}})
    report = make_report([tmp_path])
    entries = [entry for section in report.sections for entry in section.entries]
    found = [(entry.label, task, cell.measure.n) for entry in entries for task, cell in entry.cells.items()]
    few, many = "vpt-deep (num_prompts=5)", "vpt-deep (num_prompts=10)"
    assert found == [(few, "fgvc/cub", 2), (many, "digits", 2), (few, "digits", 2)]
    run(tmp_path, "digits", 0.1, fingerprint="e" * 64)
    assert {section.backbone for section in make_report([tmp_path]).sections} == {"b (ffffffff)", "b (eeeeeeee)"}


def test_where_and_how_fast_runs_were_made_does_not_keep_them_apart(tmp_path):
    for seed, value in enumerate(("here", "there")):
        run(tmp_path, "digits", 0.5, seed=seed, settings=dict.fromkeys(WHERE, value))
    (entry,) = make_report([tmp_path]).sections[0].entries
    assert (entry.label, entry.cells["digits"].measure.n) == ("vpt-deep", 2)


def test_two_sweeps_with_one_label(tmp_path):
    for name, lr in (("one", 0.1), ("two", 0.2)):
        done = [run(tmp_path / name / "runs", task, lr, settings={"lr": lr}) for task in ("digits", "proc/x")]
        sweep(tmp_path / name, [row | {"label": "vpt"} for row in done])
    assert {entry.label for entry in make_report([tmp_path]).sections[0].entries} == {f"vpt [{tmp_path}/one]", f"vpt [{tmp_path}/two]"}
    assert [entry.label for entry in make_report([tmp_path / "one"]).sections[0].entries] == ["vpt"]


def test_folders_of_images_are_data_sets_of_their_own(tmp_path):
    for name, accuracy in (("pets", 0.5), ("birds", 0.7)):
        run(tmp_path, "folder", accuracy, settings={"data_root": f"data/{name}"})
    cells = make_report([tmp_path]).sections[0].entries[0].cells
    assert {task: cell.measure.mean for task, cell in cells.items()} == {"folder pets": 0.5, "folder birds": 0.7}


def test_every_kind_of_input_and_no_run_twice(tmp_path):
    rows = [run(tmp_path / "all" / "deep", "digits", 0.5, seed=seed) for seed in range(3)]
    single = tmp_path / "all" / "deep" / rows[0]["settings_hash"]
    assert [len(read_results(given)) for given in ([single], [tmp_path], [tmp_path, single, tmp_path / "all"])] == [1, 3, 3]
    lonely = sweep(tmp_path / "copy", [row | {"label": "vpt"} for row in rows])
    assert [(row.label, row.seed) for row in read_results([lonely])] == [("vpt", 0), ("vpt", 1), ("vpt", 2)]
    with pytest.raises(ValueError, match="no folder"):
        read_results([tmp_path / "none"])


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"accuracy": 2}', "\x00", '{"method": "m", "accuracy": "high"}'])
def test_a_damaged_result_is_named_and_left_out(tmp_path, damage):
    run(tmp_path, "digits", 0.5)
    bad = run(tmp_path, "digits", 0.6, seed=1)
    (tmp_path / bad["settings_hash"] / "result.json").write_text(damage)
    unfinished = run(tmp_path, "digits", 0.6, seed=2)
    (tmp_path / unfinished["settings_hash"] / "result.json").unlink()
    report = make_report([tmp_path])
    assert report.sections[0].entries[0].cells["digits"].measure.n == 1
    assert len(report.left_out) == 2
    assert all(run["settings_hash"] in " ".join(report.left_out) for run in (bad, unfinished))
    assert bad["settings_hash"] in render(report, "html")


@pytest.mark.parametrize("name", ["summary.json", "sweep.json"])
def test_a_damaged_sweep_file_does_not_hide_the_runs(tmp_path, name):
    run(tmp_path / "runs", "digits", 0.5)
    (tmp_path / name).write_text('{"rows": 3}')
    report = make_report([tmp_path])
    assert report.sections[0].entries[0].cells["digits"].measure.n == 1 and name in report.left_out[0]


def test_stamps(tmp_path):
    run(tmp_path, "digits", 0.9, method="lspt", settings={"select": "best-on-test"}, select="best-on-test")
    run(tmp_path, "digits", 0.5)
    run(tmp_path, "digits", 0.4, method="linear")
    report = make_report([tmp_path])
    stamped = {entry.label: entry.stamps for entry in report.sections[0].entries}
    assert stamped["lspt"] == ("SELECTED ON TEST", "reading: v1") and stamped["vpt-deep"] == ()
    for kind in ("md", "latex", "html"):
        assert "SELECTED ON TEST" in render(report, kind) and "reading: v1" in render(report, kind)
    text = markdown.render(report)
    assert "**50.00**" in text and "**90.00**" not in text, "what the test split chose does not win"
    assert {row["label"] for row in rows_of(render(report, "csv")) if row["selected_on_test"] == "1"} == {"lspt"}


def test_ranks_share_ties_and_need_common_data_sets(tmp_path):
    for method, scores in {"vpt-deep": (0.5, 0.9, 0.3), "gapt": (0.5, 0.8), "linear": (0.1, 0.95)}.items():
        for task, accuracy in zip(("digits", "proc/a", "proc/b"), scores, strict=False):
            run(tmp_path, task, accuracy, method=method)
    (section,) = make_report([tmp_path]).sections
    assert section.common == ("digits", "proc/a")
    assert section.ranks == {"vpt-deep": (1.5, 2.0), "gapt": (1.5, 3.0), "linear": (3.0, 1.0)}


def test_published_numbers_stand_beside_and_apart(tmp_path):
    vtab(tmp_path, backbone=SUP)
    report = make_report([tmp_path])
    (section,) = report.sections
    assert section.quoted[0].method == "vpt-deep" and {quote.backbone for quote in section.quoted} == {"sup"}
    text = markdown.render(report)
    assert "| *vpt-deep* †1 | *78.48* | *82.43* | *54.98* | *69.43* |  |" in text
    assert "| *DA-VPT* †7 | *80.25* | *85.12* | *58.71* |  | *74.69* |" in text, "a mean over groups is none over tasks"
    assert "*73.20*" in text, "digits as printed"
    quoted = [row for row in rows_of(render(report, "csv")) if row["origin"] == "quoted"]
    assert all(row["source"] and not row["n"] for row in quoted)
    assert [row["mean"] for row in quoted if (row["label"], row["level"]) == ("VFPT", "mean_tasks")] == ["0.732"]
    page = render(report, "html")
    assert page.count('<tbody class="quoted">') == 4 and "VFPT (NeurIPS 2024), Tables S1 to S3" in page


@pytest.mark.parametrize("settings", [{"pretrained": False}, {"shots": 4}])
def test_published_numbers_of_other_conditions_stay_away(tmp_path, settings):
    run(tmp_path, "fgvc/cub", 0.5, backbone=SUP, settings=settings)
    assert make_report([tmp_path]).sections[0].quoted == ()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (SUP, "sup"), ("timm:vit_base_patch16_224.mae", "mae"), ("ViT-B_16.npz", "sup"), ("vit-b-300ep.pth.tar", "mocov3"),
        ("swin_base_patch4_window7_224.ms_in22k", "swin"), ("mae-tiny", None), ("vit_large_patch16_224.mae", None), ("sup-tiny", None),
    ],
)
def test_weights_that_papers_used(name, kind):
    assert kind_of(name) == kind


def test_published_file_holds_only_what_was_read_and_adds_up():
    data = published()
    assert set(data.marks) == {"P", "C", "2"} and {row.mark for row in data.rows} <= set(data.marks)
    assert not {"sa2vp", "lspt", "BPT", "VAPT"} & {row.method for row in data.rows}, "none of these was read"
    assert len({(row.suite, row.backbone, row.method, row.sources) for row in data.rows}) == len(data.rows)
    for row in data.rows:
        groups = suites.groups(row.suite)
        assert row.backbone in data.backbones and set(row.groups) <= set(groups)
        assert not row.tasks or set(row.tasks) == {task for tasks in groups.values() for task in tasks}
        values = [*row.tasks.values(), *row.groups.values(), *(mean for mean in (row.mean_tasks, row.mean_groups) if mean is not None)]
        assert values and all(0 < value < 100 for value in values)
        sizes = {group: len(tasks) for group, tasks in groups.items()}
        for group, mean in row.groups.items():
            if row.tasks:
                assert float(mean) == pytest.approx(float(sum(row.tasks[task] for task in groups[group])) / sizes[group], abs=0.051)
        if row.mean_tasks and len(row.groups) == len(groups) > 1:
            total = sum(float(row.groups[group]) * size for group, size in sizes.items())
            assert float(row.mean_tasks) == pytest.approx(total / sum(sizes.values()), abs=0.02), row
        if row.mean_groups:
            assert float(row.mean_groups) == pytest.approx(float(sum(row.groups.values())) / len(groups), abs=0.01)
    assert quotes("vtab", "mae-tiny") == []


class Reader(html.parser.HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_names_are_text_in_every_format(tmp_path):
    row = run(tmp_path / "runs", "digits", 0.5) | {"label": NASTY, "dataset": NASTY, "backbone": NASTY}
    other = run(tmp_path / "runs", "digits", 0.6, method="gapt") | {"label": "=1+1", "dataset": NASTY, "backbone": NASTY}
    for path in (tmp_path / "runs").iterdir():
        path.joinpath("result.json").unlink()
    report = make_report([sweep(tmp_path, [row, other])])
    page = Reader(render(report, "html"))
    assert [tag for tag, _ in page.tags].count("script") == 1 and NASTY in page.text
    assert not [value for _, attributes in page.tags for key, value in attributes.items() if key.startswith("on") or key == "src"]
    text = render(report, "md")
    assert "<script" not in text and "\\|\\*\\_" in text
    assert len({line.replace("\\|", "").count("|") for line in text.splitlines() if "alert" in line and line.startswith("|")}) == 2
    assert r"\textbar{}*\_\$\%\&\#\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}" in render(report, "latex")
    assert {row["label"] for row in rows_of(render(report, "csv"))} == {NASTY, "=1+1"}


def test_latex_is_balanced(tmp_path):
    vtab(tmp_path, backbone=SUP)
    text = render(make_report([tmp_path]), "latex")
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 5
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 5
    assert r"oxford\_flowers102" in text and r"$\pm$" in text
    assert not {"±", "†"} & set(text[text.index(r"\begin{table}"):])
    body = text[text.index(r"\begin{tabular}"):].split(r"\end{tabular}")[0].splitlines()
    assert {line.count(" & ") for line in body if line.endswith(r"\\")} == {body[0].count("r") - 1}


def test_csv_gives_back_every_number(tmp_path):
    vtab(tmp_path)
    report = make_report([tmp_path])
    rows = rows_of(render(report, "csv"))
    entry = report.sections[0].entries[0]
    assert [row["name"] for row in rows if row["level"] == "task"] == VTAB
    for row in rows:
        of_groups = {**entry.groups, "vtab": getattr(entry, row["level"], None)}
        measure = entry.cells[row["name"]].measure if row["level"] == "task" else of_groups[row["name"]]
        assert (float(row["mean"]), float(row["std"]), int(row["n"])) == (measure.mean, measure.std, measure.n)
    first = rows[0]
    assert (first["normalization"], first["resize"], first["select"], first["train_on"]) == ("imagenet", "direct", "last", "train+val")
    assert (first["seeds"], first["num_trainable"], first["trained_share"]) == ("0 1", "1000.0", "0.01")


def test_same_runs_same_bytes_and_nothing_from_the_network(tmp_path):
    vtab(tmp_path / "runs", backbone=SUP)
    vtab(tmp_path / "runs", backbone=SUP, method="gapt", settings={"lr": 3.0})
    paths = [write_report(make_report([tmp_path / "runs"]), tmp_path / name) for name in ("a", "b")]
    assert [path.name for path in paths[0]] == ["report.md", "report.csv", "report.tex", "report.html"]
    for one, two in zip(*paths, strict=True):
        assert one.read_bytes() == two.read_bytes() and str(tmp_path) not in one.read_text()
    page = paths[0][3].read_text()
    with pytest.raises(ValueError, match="unknown format 'pdf'"):
        write_report(make_report([tmp_path / "runs"]), tmp_path, ["pdf"])
    assert "http" not in page.replace("http-equiv", "") and "url(" not in page and page.count("<figure>") == 3


scores = st.lists(st.floats(0, 1), min_size=1, max_size=4)


@given(st.dictionaries(st.sampled_from(VTAB), scores, min_size=1))
def test_any_scores_make_a_report_with_means_between_them(values):
    rows = [
        Row(method="m", backbone="b", dataset=task, seed=seed, settings_hash=f"{task}{seed}", status="ok", accuracy=accuracy)
        for task, own in values.items() for seed, accuracy in enumerate(own)
    ]
    report = build(rows)
    (entry,) = report.sections[0].entries
    for task, own in values.items():
        assert min(own) - 1e-9 <= entry.cells[task].measure.mean <= max(own) + 1e-9 and entry.cells[task].measure.n == len(own)
    assert (entry.mean_tasks is None) == (set(values) != set(VTAB))
    for kind in RENDERERS:
        assert render(report, kind)
    assert build(rows) == report


@given(st.text())
def test_any_label_keeps_its_line_in_markdown_and_latex(label):
    rows = [Row(method="m", backbone="b", dataset="digits", seed=0, settings_hash="x", status="ok", accuracy=0.5, label=label)]
    report = build(rows)
    for kind in ("md", "latex"):
        assert [line for line in render(report, kind).split("\n") if "50.00" in line]
    assert rows_of(render(report, "csv"))[0]["label"] == " ".join((label or "m").split())


def test_command(tmp_path, capsys):
    from promptvit.cli import main

    run(tmp_path, "digits", 0.5)
    main(["report", str(tmp_path), "--format", "csv"])
    shown = capsys.readouterr()
    assert "| vpt-deep | 50.00 |" in shown.out and shown.err == f"written: {tmp_path}/report/report.csv\n"
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.csv"]
    main(["report", str(tmp_path), "--json", "--out", str(tmp_path / "all")])
    assert json.loads(capsys.readouterr().out)["sections"][0]["entries"][0]["cells"]["digits"]["measure"]["mean"] == 0.5
    assert len(list((tmp_path / "all").iterdir())) == 4
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path / "report")])
    assert stop.value.code == 1 and "no finished run" in capsys.readouterr().err


def test_settings_file_of_a_run_is_read(tmp_path):
    row = run(tmp_path, "digits", 0.5, settings={"resize": None, "normalization": "half"})
    (tmp_path / row["settings_hash"] / "config.yaml").write_text(yaml.safe_dump({"normalization": "half", "interpolation": "bicubic"}))
    given = make_report([tmp_path]).sections[0].entries[0].conditions
    assert (given.normalization, given.resize) == (("half",), ("bicubic",))
    settings = {"normalization": "half", "resize": None, "interpolation": None}
    (tmp_path / row["settings_hash"] / "config.yaml").write_text(yaml.safe_dump(settings))
    assert make_report([tmp_path]).sections[0].entries[0].conditions.resize == ("weights",), "as the weights want it"
