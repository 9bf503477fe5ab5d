FROM python:3.11-slim
WORKDIR /app
COPY checkpoint.pth.tar model/
RUN apt-get update && apt-get install -y libgomp1 && rm -rf /var/lib/apt/lists/*
COPY requirements-cpu.txt .
RUN --mount=type=cache,target=/root/.cache/pip pip install -r requirements-cpu.txt
COPY serve.py .
USER 1000
