FROM python:3.11-slim
WORKDIR /app
COPY checkpoint.pth.tar /app/
COPY checkpoint.pth.tar ./
USER 1000
