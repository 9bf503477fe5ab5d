FROM python:3.11-slim
RUN useradd -m app
WORKDIR /home/app
COPY --chown=app . .
USER app
