FROM python:3.11-slim
WORKDIR /app
USER 1000
COPY --chown=1000:1000 serve.py .
COPY --link --chown=1000:1000 weights/model.safetensors /app/weights/
COPY src src
