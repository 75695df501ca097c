from wsssbench import plan


def test_hash_ignores_comments_and_docstrings(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "PACKAGE", tmp_path / "wsssbench")
    package = tmp_path / "wsssbench"
    package.mkdir()
    (package / "a.py").write_text("from wsssbench.b import f\n")
    (package / "b.py").write_text('"""Doc."""\ndef f():\n    """Doc."""\n    return 1\n')
    (package / "c.py").write_text("x = 1\n")
    assert [path.name for path in plan.code_files(["a.py"])] == ["a.py", "b.py"]
    before = plan.code_hash(["a.py"])
    (package / "c.py").write_text("x = 2\n")
    (package / "b.py").write_text('"""New."""\n# why\ndef f():\n    "Other."\n    return 1\n')
    assert plan.code_hash(["a.py"]) == before
    (package / "b.py").write_text("def f():\n    return 2\n")
    assert plan.code_hash(["a.py"]) != before


def test_one_method_does_not_depend_on_another():
    files = {str(p.relative_to(plan.PACKAGE)) for p in plan.code_files(["methods/cam.py"])}
    assert "methods/cam.py" in files
    assert "methods/multiscale.py" in files
    assert "methods/__init__.py" not in files
