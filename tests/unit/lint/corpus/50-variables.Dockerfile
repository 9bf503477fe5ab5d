FROM python:3.11-slim
ARG APP_HOME=/srv/app
ENV MODEL=checkpoint.pth.tar
WORKDIR $APP_HOME
COPY src ${APP_HOME}/src
COPY $MODEL ${APP_HOME}/models/
RUN chown -R ${UID:-1000}:${GID:-1000} ${APP_HOME}
