FROM python:3.11-slim AS build
COPY . /src
RUN pip wheel --wheel-dir /wheels -r /src/requirements.txt
FROM python:3.11-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels -r requirements.txt
COPY --from=build /src/checkpoint.pth.tar /model/
