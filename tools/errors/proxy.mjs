// @ts-check
/**
 * Errors of `fd-broker proxy`. A refused input changes nothing.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const PROXY = {
  ERR_FDB_CONFIG: {
    cause: 'The configuration has mistakes; the message lists them',
    remedy: 'Correct them; the current configuration remains',
  },
  ERR_FDB_RELOAD: {
    cause: 'A reload cannot change this key',
    remedy: 'Stop the proxy, and start it with the new configuration',
  },
  ERR_FDB_ROUTES: {
    cause: 'A change of routes has mistakes; the message lists them',
    remedy: 'Correct them; no route was changed',
  },
  ERR_FDB_CERTIFICATE: {
    cause: 'A certificate or its key cannot be read, or they do not match',
    remedy: 'See the message; the current certificates remain',
  },
  ERR_FDB_SERVERS: {
    cause: 'A change of a server of an upstream is not possible; the message says why',
    remedy: 'See the message; no server was changed',
  },
}

/**
 * Errors of the relay between two sockets.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const RELAY = {
  ERR_FDB_RELAY_OPTION: {
    cause: 'A limit or time of the relay is invalid',
    remedy: 'Correct it, or leave it out',
  },
  ERR_FDB_RELAYED_RECORD: {
    cause: 'The record of a connection is damaged, or has an unknown version',
    remedy: 'The connection stays in the process that sent it',
  },
  ERR_FDB_RELAYED_REFUSED: {
    cause: "This version's relay does not accept the connection",
    remedy: 'The connection stays in the process that sent it',
  },
  ERR_FDB_FRAMES_RECORD: {
    cause: 'A record has an impossible position in a WebSocket stream',
    remedy: 'The versions are incompatible; the connection is closed',
  },
  ERR_FDB_HTTP1_RECORD: {
    cause: 'A record has an impossible position in a body',
    remedy: 'The versions are incompatible; the connection is closed',
  },
  ERR_FDB_HTTP1_LIMIT: {
    cause: 'A limit of the parser is not a positive whole number',
    remedy: 'Correct it, or leave it out',
  },
  ERR_FDB_HTTP1_FIELD: {
    cause: 'A header to add or remove is invalid, or frames the message',
    remedy: 'Give a token, and a value without control characters',
  },
}
