# syntax=docker/dockerfile:1.7-labs
FROM python:3.11-slim
COPY --parents src weights /app/
