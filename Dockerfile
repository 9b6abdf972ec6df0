# Builds from requirements.lock alone: every file is checked against its hash, wherever it comes from.
#
#   docker build --build-context wheels=wheelhouse --network none -t redteam .          from a folder of wheels, offline
#   docker build --secret id=index,env=PIP_INDEX_URL -t redteam .                      from an index of yours
ARG PYTHON=python:3.13-slim-bookworm

FROM scratch AS wheels

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements.lock pyproject.toml ./
COPY tools/image.sh tools/
RUN --mount=type=bind,from=wheels,target=/wheels --mount=type=secret,id=index \
    sh tools/image.sh dependencies /opt/redteam
COPY README.md LICENSE ./
COPY redteam redteam
COPY attacks attacks
COPY defenses defenses
COPY reports reports
COPY scenarios scenarios
RUN --mount=type=bind,from=wheels,target=/wheels --mount=type=secret,id=index \
    sh tools/image.sh wheel /dist

FROM ${PYTHON}
RUN useradd --uid 1000 --create-home redteam
# Two layers: the large one changes with requirements.lock, the small one with the program.
COPY --from=build /opt/redteam /opt/redteam
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    python -m pip --python /opt/redteam/bin/python install --no-cache-dir --no-index --no-deps /dist/*.whl
ENV PATH=/opt/redteam/bin:$PATH OMP_NUM_THREADS=1
WORKDIR /work
RUN chown redteam /work
USER 1000
ENTRYPOINT ["redteam"]
CMD ["--help"]
