FROM python:3.11-slim
COPY --link big /models/
COPY --link big/model-00001-of-00002.safetensors /models/one/
