"""Bad input of `python -m pipelines deliver`."""


def test_deliver_names_what_is_wrong_with_its_options(cli, tmp_path):
    refused = cli("deliver", "--workdir", str(tmp_path / "none"))
    assert refused.error.startswith("error: --workdir: ")
    nothing = cli("deliver", "--workdir", str(tmp_path))
    assert (nothing.code, nothing.out) == (0, "nothing is left to deliver\n")
