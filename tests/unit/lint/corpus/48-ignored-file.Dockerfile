FROM python:3.11-slim
COPY secret/key.bin /key
COPY secret /keys/
