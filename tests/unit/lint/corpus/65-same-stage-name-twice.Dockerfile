FROM python:3.11-slim AS a
COPY serve.py /a/
FROM a AS a
COPY checkpoint.pth.tar /a/
