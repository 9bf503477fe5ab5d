FROM pytorch/pytorch:2.4.0-cuda12.4-cudnn9-devel AS base
FROM base AS deps
RUN pip install --no-cache-dir fastapi
FROM deps
COPY serve.py /app/
