"""Bad input: exit code 2, one line a problem, all of them at once, before any work."""

import socket
from collections.abc import Iterator

import pytest
from PIL import Image


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://user:planted-secret@127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("setting", "named", "allowed"),
    [
        ("stage2.contrastiv=3", "stage2.contrastiv", "did you mean 'stage2.contrastive'"),
        ("sample.num_samples=many", "sample.num_samples", "integer"),
        ("stage1.classifier_attack.eps=-1", "stage1.classifier_attack.eps", "greater than or equal to 0"),
        ("stage2.classifier_attack.step_size=0", "stage2.classifier_attack.step_size", "steps is 7"),
        ("evaluate.robust.norm=L3", "evaluate.robust.norm", "'L2' or 'Linf'"),
        ("compute.num_workers=4096", "compute.num_workers", "4096 workers x 1 CPUs = 4096 CPUs asked for"),
        ("model.arch=wrn-11-1", "model.arch", "wrn-DEPTH-WIDTH"),
        ("stage1.augment=crop+spin", "stage1.augment", "crop<pixels>"),
        ("stage2.contrastive.max_steps=2", "stage2.contrastive.max_steps", "start_steps=10"),
        ("stage1.accumulate=7", "stage1.accumulate", "batch_size=64"),
        ("stage1.batch_size=100000", "stage1.batch_size", "training images"),
        ("data=5", "data", "dictionary"),
        ("data.in=/no/such/folder", "data.in", "does not exist"),
        ("data.in=digit", "data.in", "did you mean 'digits'?"),
        ("data.ood=/no/such/folder", "data.ood", "does not exist"),
        ("model.checkpoint=/no/such/model", "model.checkpoint", "model.safetensors"),
        ("evaluate.inception_weights=/no/file", "evaluate.inception_weights", "no such file"),
        ("evaluate.inception_weights=/etc/passwd", "evaluate.inception_weights", "does not hold these"),
        ("model.checkpoint=" + "x" * 300, "model.checkpoint", "too long"),
        ("evaluate.reference_statistics=a.npz", "evaluate.reference_statistics", "Inception features"),
        (
            "evaluate={feature_extractor: inception, reference_statistics: /no.npz, robust: {eps: 1}}",
            "evaluate.reference_statistics",
            "no such file",
        ),
        ("stage1.augment=cutout16", "stage1.augment", "8 pixels a side"),
        ("stage2.augment_ood=crop5", "stage2.augment_ood", "8 pixels a side"),
        ("data.ood=digits", "data.ood", "the images to learn are no seeds"),
        ("data.in=", "data.in", "valid string"),
        ("data.in=photographs-²", "data.in", "neither a folder"),
        ("data.short_side=4", "data.short_side", "at least image_size=8"),
        ("data.encoding=bmp", "data.encoding", "'png', 'webp' or 'jpg'"),
        ("data.image_size=100000", "data.image_size", "4096"),
        ("data.max_images=0", "data.max_images", "greater than or equal to 1"),
        ("evaluate.extractor_steps=0", "evaluate.extractor_steps", "greater than or equal to 1"),
        ("seed=99999999999999999999", "seed", "less than"),
        ("stage2.select=best_fid", "stage2.select", "'best_frechet'"),
        ("published={source: x, metrics: {fid: .nan}}", "published.metrics.fid", "finite"),
        ("evaluate.feature_extractor=random", "evaluate.feature_extractor", "smoke"),
        ("evaluate.robust.iterations=2", "evaluate.robust.iterations", "smoke"),
        ("nonsense", "--set", "key.path=value"),
    ],
)
def test_bad_setting(cli, tmp_path, setting, named, allowed):
    extra = ["--set", "evaluate.feature_extractor=inception"] if "inception" in setting else []
    result = cli("--pipeline", "digits", "--workdir", str(tmp_path), "--set", setting, *extra)
    assert result.code == 2
    assert any(line.startswith(f"error: {named}") and allowed in line for line in result.errors)
    assert "Traceback" not in result.err
    assert not (tmp_path / "mlflow.db").exists()


def test_every_problem_is_reported_at_once(cli, silent_server, tmp_path):
    unwritable = tmp_path / "file"
    unwritable.write_text("")
    result = cli(
        "--pipeline", "digits", "--workdir", str(unwritable / "runs"), "--tracking-uri", silent_server,
        *("--set", "stage1.classifier_attack.eps=-1"),
        *("--set", "sample.num_sample=3"),
        *("--set", "data.in=/no/such/folder"),
        *("--set", "compute.num_workers=4096"),
    )  # fmt: skip
    assert result.code == 2
    where = sorted(line.split(":")[1].strip() for line in result.errors)
    assert where == [
        "--tracking-uri",
        "--workdir",
        "compute.num_workers",
        "data.in",
        "sample.num_sample",
        "stage1.batch_size",
        "stage1.classifier_attack.eps",
        "stage2.batch_size",
    ]
    assert "planted-secret" not in result.err + result.out


@pytest.mark.parametrize(
    ("classes", "images", "broken", "text"),
    [(0, 0, False, "no image file"), (1, 40, False, "one class"), (3, 40, True, "can be decoded")],
    ids=["empty", "one-class", "undecodable"],
)
def test_useless_folder(cli, tmp_path, classes, images, broken, text):
    folder = tmp_path / "images"
    folder.mkdir()
    for label in range(classes):
        (folder / f"class{label}").mkdir()
        for index in range(images):
            path = folder / f"class{label}" / f"{index}.png"
            Image.new("L", (8, 8), (index * 7 + label * 90) % 256).save(path)
            if broken:
                path.write_bytes(b"no image")
    result = cli("--pipeline", "digits", "--workdir", str(tmp_path / "runs"), "--set", f"data.in={folder}")
    assert result.code == 2
    assert any(line.startswith("error: data.in: ") and text in line for line in result.errors)


def test_damaged_checkpoint_is_refused(cli, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    result = cli("--pipeline", "digits", "--workdir", str(tmp_path), "--set", f"model.checkpoint={tmp_path}")
    assert "model.json does not describe a model" in result.error


@pytest.mark.parametrize("content", ["[1, 2]", "a: ["], ids=["list", "torn"])
def test_recipe_file_that_is_none(cli, tmp_path, content):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(content)
    assert cli("--pipeline", str(recipe)).error.startswith(f"error: {recipe}: ")


ODD_INPUT = [
    (["--pipeline", "digit"], "--pipeline", "did you mean 'digits'?"),
    (["--pipeline", "no/such.yaml"], "--pipeline", "no such file"),
    (["--pipeline", "../pipelines/digits"], "--pipeline", "use one of cifar10"),
    (["--from", "sampel"], "--from", "use one of preprocess"),
    (["--from", "sample"], "--from", "has no finished artifact"),
    (["--from", "evaluate_classifier", "--until", "preprocess"], "--until", ""),
    pytest.param(
        *(["--tracking-uri", "postgresql://me:planted@127.0.0.1:1/db"], "--tracking-uri", ""),
        marks=pytest.mark.slow,  # MLflow tries ten times
    ),
    (["--tracking-uri", "http://[::1"], "--tracking-uri", ""),
    (["--tracking-uri", "sqlite:///"], "--tracking-uri", ""),
    (["--tracking-uri", ""], "--tracking-uri", ""),
    (["--workdir", "~nosuchuser/x"], "--workdir", ""),
    (["--workdir", "a?b"], "--workdir", ""),
    (["--workdir", "s3://me:planted@bucket/runs"], "--workdir", "credentials"),
    (["--workdir", "ftp://host/runs"], "--workdir", ""),
    (["--ray-address", "127.0.0.1:1"], "--ray-address", ""),
    (["--set", "data.in=~nosuchuser/x"], "data.in", ""),
    (["--set", f"seed={'[' * 3000}"], "seed", ""),
    (["--set", f"seed={'9' * 5000}"], "seed", ""),
]


@pytest.mark.parametrize(("arguments", "named", "text"), ODD_INPUT, ids=lambda value: str(value)[:40])
def test_odd_input_is_one_line_and_json(cli, tmp_path, arguments, named, text):
    first = {"--pipeline": "digits", "--workdir": str(tmp_path)}
    rest = [word for name, value in first.items() if name not in arguments for word in (name, value)]
    result = cli(*rest, *arguments, "--json", cwd=tmp_path)
    assert result.code == 2
    assert result.errors
    assert all(line.startswith(f"error: {named}: ") and text in line for line in result.errors)
    assert "Traceback" not in result.err
    assert "planted" not in result.err + result.out
    assert result.json["status"] == "refused"
    assert result.json["errors"] == result.errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [([], "Missing option '--pipeline'"), (["--bogus", "--pipeline", "digits"], "No such option: --bogus")],
)
def test_bad_usage(cli, arguments, text):
    assert text in cli(*arguments).error
