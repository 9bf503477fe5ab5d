FROM python:3.11-slim
WORKDIR /app
COPY serve.py .
RUN apt-get update && \
    apt-get install -y curl
COPY checkpoint.pth.tar .
