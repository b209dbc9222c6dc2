"""Who is let in, and how much: other sites, other paths, too much of everything."""

from __future__ import annotations

import contextlib
import socket

import pytest

from experiments.serve.uploads import looks_like_video

from .serving import BOUNDARY, UPLOAD_BYTES, multipart

EVERYWHERE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}

OF_PAGES = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
OF_DATA = "default-src 'none'; frame-ancestors 'none'; sandbox"


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/frames/../../etc/passwd",
        "/frames/..%2f..%2fsecret.mp4.jpg",
        "/frames/%2e%2e%2f%2e%2e%2fsecret.mp4.jpg",
        "/frames//etc/passwd.jpg",
        "/frames/%2Fetc%2Fpasswd.jpg",
        "/frames/a.mp4.jpg",
        "/frames/a.mp4%00.jpg",
        "/frames/%00.jpg",
        "/app.js/../../command.py",
        "/app.js%00",
        "/search/..%2f..",
        "/probe/..%2f../page",
        "/jobs/%2e%2e",
        "//localhost/",
    ],
)
def test_no_path_of_a_request_becomes_one_of_the_machine(served, path):
    said = served.get(path)
    assert said.status == 404
    assert b"Traceback" not in said.body


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "a.mp4", "a\0", "out.mp4", "sub/../a.mp4"])
def test_videos_are_named_by_ids_alone(served, name):
    said = served.post_json("/api/ask", {"video": name, "texts": ["a"]})
    assert said.status in (404, 422)


def test_a_link_that_leads_out_is_refused(served, folder):
    said = served.get("/api/videos").json
    names = {video["video"] for video in said["videos"]}
    assert "inside.mp4" in names
    assert "out.mp4" not in names
    assert {"video": "out.mp4", "reason": "a link to a file outside the folder"} in said["left_out"]
    found = served.post_json("/api/search", {"texts": ["a moon"], "top": 50}).json
    assert {video["video"] for video in found["texts"][0]["videos"]} == names - {"broken.mp4"}
    # One that becomes a link later, too.
    late = folder / "late.mp4"
    late.write_bytes((folder / "a.mp4").read_bytes())
    served.site.library.refresh(max_age=0.0)
    video_id = served.video_id("late.mp4")
    try:
        late.unlink()
        late.symlink_to(folder.parent / "secret.mp4")
        assert served.get(f"/frames/{video_id}.jpg").status == 404
        assert served.post_json("/api/ask", {"video": video_id, "texts": ["a"]}).status == 404
    finally:
        late.unlink()


# ---- Other sites ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", "", None, "[::1"]
)
def test_other_hosts_are_refused(served, host):
    said = served.get("/", Host=host and host.format(port=served.port))
    assert said.status == 400
    assert b"clipbert" not in said.body
    assert b"retrieval" not in said.body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_names_of_this_machine_are_ours(served, host):
    assert served.get("/favicon.ico", Host=f"{host}:{served.port}").status == 204


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),  # a program
        ({"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}, 422),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 422),  # a form, without script
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://127.0.0.1:{port}"}, 403),
        ({"Origin": "http://localhost:{port}"}, 403),  # not the host that was asked
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 403),
    ],
)
def test_forms_of_other_sites_are_refused(served, headers, status):
    headers = {name: value.format(port=served.port) for name, value in headers.items()}
    for path in ("/api/ask", "/ask", "/probe", "/search", "/api/search"):
        said = served.post_json(path, {"texts": []}, **headers)
        assert said.status == status
        assert "access-control-allow-origin" not in said.headers


def test_other_sites_may_link_here_but_embed_nothing(served):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert served.get("/", **link).status == 200
    assert served.get("/", **link | {"Sec-Fetch-Dest": "iframe"}).status == 403
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert served.get(f"/frames/{served.video_id('a.mp4')}.jpg", **image).status == 403
    assert served.ask("OPTIONS", "/api/ask", headers={"Origin": "http://evil.example"}).status == 403


def test_every_answer_has_the_headers(served):
    answers = [served.get(path) for path in ("/", "/ask", "/probe", "/app.js", "/favicon.ico", "/nothing")]
    answers += [served.get("/api/status"), served.get("/api/nothing"), served.get("/", Host="evil.example")]
    answers += [served.get(f"/frames/{served.video_id('a.mp4')}.jpg"), served.ask("DELETE", "/ask")]
    answers += [served.post_json("/api/ask", {}), served.post_json("/ask", {}, Origin="http://evil.example")]
    assert {answer.status for answer in answers} == {200, 204, 400, 403, 404, 405, 422}
    for answer in answers:
        assert EVERYWHERE.items() <= answer.headers.items()
        assert answer.headers["content-security-policy"] in (OF_PAGES, OF_DATA)
        assert "server" not in answer.headers
    assert [answer.headers["content-security-policy"] for answer in answers[:4]] == [OF_PAGES] * 3 + [OF_DATA]


def test_pictures_are_pictures(served):
    said = served.get(f"/frames/{served.video_id('a.mp4')}.jpg")
    assert said.headers["content-type"] == "image/jpeg"
    assert said.body.startswith(b"\xff\xd8\xff")
    none = served.get(f"/frames/{served.video_id('broken.mp4')}.jpg")
    assert (none.status, none.headers["content-type"]) == (200, "image/svg+xml")


# ---- Too much ---------------------------------------------------------------------------------------------


def test_a_video_that_is_said_to_be_too_large_is_not_read(served):
    head = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": str(10**12)}
    said = served.ask("POST", "/api/ask", headers=head)
    assert said.status == 413
    assert said.json["error"].startswith("The video has more than 0.2 MB: ")


def test_a_video_that_does_not_end_is_cut_off(served):
    """No length is declared, and the client sends until it is not let."""
    form = multipart({"texts": "a"}, ("a.mp4", b"\0\0\0\x18ftypmp42")).split(
        b"\r\n--" + BOUNDARY.encode() + b"--"
    )[0]
    before = set(served.site.private.iterdir())
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        head = (
            f"POST /api/ask HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nTransfer-Encoding: chunked\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        )
        client.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(form), form))
        with contextlib.suppress(OSError):  # it hangs up
            for _ in range(4000):
                client.sendall(b"%x\r\n%s\r\n" % (1 << 16, bytes(1 << 16)))
            pytest.fail("the server took 260 MB")
    assert set(served.site.private.iterdir()) == before


def test_files_beside_a_video_are_small(served):
    large = {"texts": "a" * 200_000}
    assert served.post_form("/api/ask", large).status in (400, 413)
    body = b"texts=" + b"a" * (UPLOAD_BYTES // 2 + 100_000)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    for path in ("/api/ask", "/search", "/api/search"):
        assert served.ask("POST", path, body, kind).status in (400, 413)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", None),
        ("a.mp4.exe", None),
        ("mp4", None),
        ("a.mp4", b"ffconcat version 1.0\nfile 'data/a.mp4'\n"),
        ("a.mp4", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n"),
        ("a.mp4", b"<?xml version='1.0'?><MPD/>"),
        ("a.mp4", b"GET / HTTP/1.1\r\n"),
        ("a.mp4", b""),
    ],
)
def test_what_is_no_video_is_refused(served, video, name, data):
    said = served.post_form("/api/ask", {"texts": "a"}, file=(name, video if data is None else data))
    assert said.status == 415
    assert said.json["error"].startswith(name)


def test_all_kinds_that_are_taken_begin_as_one(video):
    assert looks_like_video(video)
    assert not looks_like_video(b"G" * 10)
    assert looks_like_video(b"G" + bytes(187) + b"G")


def test_a_fault_of_ours_is_no_traceback(served, monkeypatch, capsys):
    def break_(*arguments, **options):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(served.site.library, "look_for", break_)
    for path in ("/ask", "/api/videos"):
        said = served.get(path)
        assert said.status == 500
        assert "The server could not do this; its log says why." in said.text.replace("&#39;", "'")
        assert "secret" not in said.text
    log = capsys.readouterr().err
    assert "RuntimeError: /secret/path" in log
    assert "GET /ask 500 Internal Server Error" in log


def test_the_log_has_a_line_for_each_request(served, capsys):
    served.get("/ask?texts=private")
    served.get("/no%0A%1b[31m")
    lines = capsys.readouterr().err.splitlines()
    assert [" GET /ask 200 OK " in lines[0], "private" in lines[0]] == [True, False]
    assert " GET /no\\n\\x1b[31m 404 Not Found " in lines[1]
