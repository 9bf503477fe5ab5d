from __future__ import annotations

import pytest

from layerkit.runtime import find_checkpoint_copy

TOP = "FROM scratch AS checkpoint\nFROM b\nWORKDIR /app\nENV TOP=/app\nCOPY --link --from=checkpoint . /app/model/\n"


@pytest.mark.parametrize(
    "script",
    [
        "mv /app/model /app/m2",
        "rm -rf /app/model",
        "rm -rf model/*",
        "rm -r /app/mod*",
        "useradd me && chown -R me:me /app",
        "chown -R 1000 $TOP",
        "chmod -R a+rX .",
        "cd / && chmod --recursive g+w app",
        "find /app -type f -exec chmod 644 {} +",
        "cp -a /app /copy",
        "tar czf /all.tgz /app",
        "tar -C /app -czf /all.tgz .",
        "tar --create -f /all.tar /app",
        "mv /app /srv",
        "rsync -a --delete /new/ /app/",
        "if true; then chgrp -R me /app; fi",
        "sh -c 'chown -R 1000 /app'",
        'bash -c "mv /app /srv"',
        """python3 -c "open('/app/model/a.bin')" """,
        "python warm.py --weights=/app/model/a.bin",
        '["chown", "-R", "1000", "/app"]',
        "<<EOF\nset -e\nchown -R 1000 /app\nEOF",
        "--mount=type=cache,target=/x chown -R 1000 /app",
        "cp -R --target-directory=/srv /app",
        "mv --target-directory=/srv /app",
        "mv -t /srv model",
        "rsync -avt /app/ /srv/",
        "tar -C/app/model -xf /x.tar",
        "curl -o/app/model/x https://example.com/x",
        "wget -P/app/model https://example.com/x",
        "echo x >> model/config.json",
        "echo x >/app/model/config.json",
        "touch /app/model/x",
        "zip -r /x.zip /app",
        "chcon -R t /app",
        "install -m 644 /x /app/model/x",
        "su me -c 'rm -rf /app'",
        "gosu me chown -R 1000 /app",
        "sudo -u me chown -R 1000 /app",
        "echo /app | xargs chown -R 1000",
        "ls -d /app/* | xargs -n1 chmod -R 755",
        "find /app -type f | xargs chmod 644",
        "find / -type f -delete",
        "find / -user 0 -exec chown 1000 {} +",
        "find -type f -delete",
        "find / -name '*.safetensors' -delete",
        "find /app ! -name '*.pyc' -delete",
        "find /app -name '*.pyc' -o -type f -delete",
        "find /app -type f -delete -name '*.pyc'",
        "find /app -name model -exec rm -rf {} +",
        "chown -R 1000 ${NONE:-/app}",
        "D=/app; chown -R 1000 $D",
        "export D=/app && chown -R 1000 $D",
        "for d in /srv /app; do chown -R 1000 $d; done",
        "rm -rf /app/{model,x}",
        "rm -rf /app/{x,{y,mod}el}",
        "rm -rf {model,x}",
        "rm -rf /{app,srv}/{model,x}",
        "D=/app; rm -rf $D/{model,x}",
        "for d in /app/{model,x}; do rm -rf $d; done",
        "rm -rf /app/mode{a..z}",
        f"rm -rf /app/{{{','.join(map(str, range(300)))},model}}",
        "cd /app && { rm -rf {x,model}; }",
        "find / -name '*.pyc' -exec rm -f {} + -o -type f -exec chmod 644 {} +",
        "sed -i s/a/b/ /app/*/config.json",
        "cp /app/*/config.json /srv/",
        "sha256sum */*",
        "git clean -fdx",
        "git -C /app clean -fdx",
        "cd / && git add -A app",
        "7z a /x.7z /app",
        "7z a /x.7z",
        "bsdtar -cf /x.tar /app",
        "mksquashfs /app /x.sqfs",
    ],
)
def test_works_on_the_weights(script: str) -> None:
    """A RUN below the COPY line that moves, deletes, copies, reads the weights or changes whose they are is named."""
    found = find_checkpoint_copy(TOP + f"RUN {script}\n")
    assert found.touched.startswith("line 6 of the Dockerfile (") and found.touched.endswith("works on the weights")


@pytest.mark.parametrize(
    "line",
    [
        "RUN pip install -r requirements.txt",
        "RUN rm -rf /var/lib/apt/lists/* /tmp/*",
        "RUN find / -name '*.pyc' -delete",
        "RUN find /app -name '*.pyc' -delete",
        "RUN find . -type d -name __pycache__ -exec rm -rf {} +",
        "RUN find / -name '*.pyc' | xargs rm -f",
        "RUN find /app \\( -name '*.pyc' -o -name '*.pyo' \\) -delete",
        "RUN find / -perm /6000 -type f -exec chmod a-s {} +",
        "RUN rsync -avt /src/ /app/",
        "RUN sed -i s/a/b/ /app/serve.py",
        "RUN pip install --no-cache-dir -r requirements.txt --target /app/vendor",
        "RUN pip install -e /app",
        "RUN chown -R app:app /home/app",
        "RUN chmod +x /app/entrypoint.sh",
        "RUN useradd -m -d /app app && chown app:app /app",
        "RUN touch /app/model /app/x && echo x > /app/.env",
        "RUN X=1; apt-get update && apt-get install -y curl 2>/dev/null && rm -rf /var/lib/apt/lists/*",
        "RUN curl -fsSL https://example.com/install.sh | sh",
        "RUN chown -R 1000 /app/logs /app/models",
        "RUN chown 1000 /app /app/model",
        "RUN mkdir -p /app/model && ls /app/model && echo /app/model",
        "RUN ln -s /app/model /model",
        "RUN rm -rf /app/{logs,tmp} /srv/{model,x}",
        "RUN rm -rf ${X:-/srv,x} {a,b}",
        "RUN rm -rf /app/*/__pycache__ /app/*/*.pyc",
        "RUN rm -rf /app/x{1..9}",
        "RUN chmod 755 /app/*",
        "RUN sed -i s/a/b/ /app/*.py /app/src*/x.py",
        "RUN ls /app/*/config.json",
        "RUN git -C /src pull",
        "RUN git clone https://example.com/x /app/x",
        "RUN cd /src && git clean -fdx",
        "RUN 7z x /tmp/x.7z -o/app",
        "RUN 7z a /x.7z /src",
        "RUN { echo a; echo b; } > /app/x",
        "RUN python -m compileall /app",
        "RUN tar -xzf x.tgz -C /",
        "RUN tar --strip-components=1 -xzf /tmp/x.tgz -C /app",
        "RUN tar --extract --file /tmp/x.tgz --directory /app",
        "RUN cp -r /tmp/build/. /app/",
        "RUN cp -a static/. .",
        "RUN mv /tmp/dist/* /app",
        "RUN rsync -a /src/ /app/",
        "RUN curl -o /x https://example.com/app/model/x",
        "RUN <<EOF\nchown -R 1000 /srv\nEOF",
        "COPY . /app",
        "CMD rm -rf /app",
    ],
)
def test_leaves_them_alone(line: str) -> None:
    """What looks elsewhere, or only names the folder, does not cost the image its composing."""
    assert find_checkpoint_copy(f"{TOP}{line}\n").touched == ""


def test_above_the_line() -> None:
    """What stands above the COPY line knows nothing of the weights."""
    head, _, line = TOP.rstrip().rpartition("\n")
    assert find_checkpoint_copy(f"{head}\nRUN chown -R 1000 /app\n{line}\n").touched == ""


@pytest.mark.parametrize(
    ("source", "takes"), [("/m", True), ("/", True), ("/m/a.bin", True), ("/venv", False), ("/mm", False)]
)
def test_another_stage(source: str, takes: bool) -> None:
    """A stage that takes the weights from the one that has them counts, where the built one needs it."""
    text = (
        "FROM b AS a\nCOPY --link --from=checkpoint . /m/\n"
        f"FROM b AS side\nCOPY --from=a {source} /x\nRUN cp -r /x /n\nFROM a\n"
    )
    found = find_checkpoint_copy(text + "COPY --from=side /n /n\n").touched
    said = f"line 4 of the Dockerfile ('COPY --from=a {source} /x') takes the weights from another stage"
    assert found == (said if takes else "")
    assert find_checkpoint_copy(text).touched == ""
    mounted = "RUN --mount=type=bind,from=a,source=/m,target=/w cp -r /w /n\n"
    assert (
        "from another stage"
        in find_checkpoint_copy(f"{text.rpartition('FROM')[0]}{mounted}FROM side\nFROM a\nCOPY --from=2 /n /\n").touched
    )


def test_a_stage_on_top() -> None:
    """A stage made on top of the one with the weights works on them too."""
    side = "FROM a AS side\nRUN cp -r /m /n\n"
    text = f"FROM b AS a\nCOPY --link --from=checkpoint . /m/\n{side}FROM a\nCOPY --from=side /n /n\n"
    assert "'RUN cp -r /m /n'" in find_checkpoint_copy(text).touched
