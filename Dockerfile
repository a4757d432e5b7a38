# The commands of fd-broker on any image that has Node, npm and a shell:
#   npm run prebuilds && npm pack && docker build --build-arg NODE=node:24-alpine --tag fd-broker .
ARG NODE=node:24-bookworm-slim

FROM ${NODE} AS install
ARG TARBALL=fd-broker-*.tgz
COPY ${TARBALL} /package/
RUN npm install --global --prefix /image --ignore-scripts --no-audit --no-fund /package/*.tgz

FROM ${NODE}
COPY --from=install /image/ /usr/local/
# Only its owner may enter the folder of the control socket. Shared with another container, it is the way to the next version.
RUN mkdir -p /etc/fd-broker && mkdir -m 0700 /run/fd-broker && chown 1000:1000 /run/fd-broker
USER 1000:1000
ENV NODE_ENV=production
ENTRYPOINT ["fd-broker"]
CMD ["proxy", "--config", "/etc/fd-broker/proxy.yaml"]
