FROM python:3.11-slim
ARG HF_TOKEN
ARG PIP_INDEX_URL=https://build:hunter2@pypi.corp.example/simple
ENV AWS_SECRET_ACCESS_KEY=abc \
    MAX_TOKENS=4096 TOKENIZERS_PARALLELISM=false
ENV OPENAI_API_KEY sk-0123456789abcdefghijklmnop
ENV PASSWORD_FILE=/run/secrets/pw EMPTY_TOKEN=""
RUN pip install --no-cache-dir --index-url https://me:pw@host.example/simple fastapi
