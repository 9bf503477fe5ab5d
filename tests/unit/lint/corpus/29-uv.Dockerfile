FROM python:3.12-slim
COPY --from=ghcr.io/astral-sh/uv:0.5 /uv /bin/uv
WORKDIR /app
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen
RUN uv pip install --system torch
RUN uv pip install --system --no-cache fastapi
COPY . .
