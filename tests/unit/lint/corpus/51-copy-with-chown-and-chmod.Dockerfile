FROM python:3.11-slim
WORKDIR /app
COPY --chown=1000:1000 --chmod=755 . .
USER 1000
