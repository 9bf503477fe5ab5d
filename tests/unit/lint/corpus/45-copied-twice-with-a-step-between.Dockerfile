FROM python:3.11-slim
WORKDIR /app
COPY checkpoint.pth.tar /app/
RUN python -m convert
COPY checkpoint.pth.tar /app/checkpoint.pth.tar
