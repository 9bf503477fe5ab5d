FROM python:3.11-slim
COPY src/ weights/ /app/
