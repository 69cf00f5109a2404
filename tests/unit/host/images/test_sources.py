"""apt's configuration in its several spellings."""

from __future__ import annotations

from pathlib import Path

from polyvisor.host.images.sources import debian_sources


def test_only_the_release_and_its_updates_are_taken(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    mirrors = tmp_path / "mirrors"
    mirrors.write_text("http://mirror.example/debian\nhttp://other.example/debian\n")
    (tmp_path / "sources.list").write_text(
        "# deb http://old.example/ bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://u:p@one.example/debian bookworm main contrib # why\n"
        "deb-src http://one.example/debian bookworm main\n"
        "deb http://vendor.example/ bookworm stable\n"
        "deb http://vendor.example/ bookworm-vendor main\n"
    )
    (parts / "debian.sources").write_text(
        "# a comment\n"
        "Types: deb deb-src\n"
        f"URIs: mirror+file:{mirrors}\n"
        "Suites: bookworm\n bookworm-updates\n"
        "Components: main\n\n"
        "Types: deb\nEnabled: no\nURIs: http://off.example/\nSuites: bookworm\nComponents: main\n"
    )
    (parts / "x.list.disabled").write_text("deb http://off.example/ bookworm main\n")
    found = debian_sources("bookworm", tmp_path)
    assert [source.line(public=True) for source in found] == [
        "deb [signed-by=/k.gpg] http://one.example/debian bookworm main contrib",
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian bookworm-updates main",
    ]
    assert "u:p@" in found[0].line()
    assert debian_sources("trixie", tmp_path) == []
