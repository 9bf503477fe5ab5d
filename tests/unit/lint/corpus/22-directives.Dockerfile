# syntax=docker/dockerfile:1.4
# check=skip=all
FROM python:3.11-slim
WORKDIR /app
COPY . .
