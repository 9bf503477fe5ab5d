FROM python:3.11-slim
WORKDIR /app
COPY serve.py .
COPY not-here/resnet.pth ./model/
