FROM python:3.11-slim
WORKDIR /app
COPY serve.py .
RUN python serve.py --self-test
COPY checkpoint.pth.tar model/
USER 1000
