FROM python:3.11-slim
ONBUILD COPY . /app
ONBUILD RUN pip install -r /app/requirements.txt
ONBUILD ENV TOKEN=abc
