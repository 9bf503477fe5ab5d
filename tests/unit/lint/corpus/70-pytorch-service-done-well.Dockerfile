# syntax=docker/dockerfile:1
FROM python:3.11.9-slim@sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d
ENV NVIDIA_VISIBLE_DEVICES=all
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=requirements.txt,target=/r.txt pip install -r /r.txt
COPY --link weights/model.safetensors /app/weights/
COPY serve.py ./
USER 1000:1000
CMD ["python", "serve.py"]
