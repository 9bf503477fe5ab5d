FROM python:3.11-slim AS base
FROM base AS dependencies
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=requirements-cpu.txt,target=/tmp/r.txt pip install -r /tmp/r.txt
FROM scratch AS checkpoint
FROM scratch AS code
COPY serve.py /app/serve.py
FROM dependencies AS image
COPY --link --chown=0:0 --from=checkpoint . /app/model/
COPY --link --from=code / /
USER 1000:1000
CMD ["python", "serve.py"]
