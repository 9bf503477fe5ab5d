FROM python:3.11-slim
COPY weights /opt/weights
RUN groupadd -r svc && useradd -r -g svc svc && \
    chown -R svc:svc /opt/weights
USER svc
