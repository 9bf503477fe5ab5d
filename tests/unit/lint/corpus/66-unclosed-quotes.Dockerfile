FROM python:3.11-slim
ENV TEXT="never closed
RUN echo 'also never && pip install torch
COPY "checkpoint.pth.tar /app/
