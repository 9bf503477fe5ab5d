FROM python:3.11-slim
WORKDIR /app
COPY *.py requirements*.txt ./
COPY weights/*.safetensors weights/
COPY w?ights/config.json ./
