// @ts-check
/**
 * `fd-broker proxy`: a refused input changes nothing.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const PROXY = {
  ERR_FDB_CONFIG: {
    cause: 'The configuration cannot be read, or has mistakes: one a line, with its place',
    remedy: 'Correct them; the proxy, or the daemon, keeps its present configuration',
  },
  ERR_FDB_RELOAD: {
    cause: 'A reload cannot change this key: the message names it',
    remedy: 'Stop the proxy, and start one with the new configuration',
  },
  ERR_FDB_ROUTES: {
    cause: 'A list of routes, or a change of them, has mistakes: one a line',
    remedy: 'Correct them; all are made or none',
  },
  ERR_FDB_CERTIFICATE: {
    cause: 'A certificate or its key cannot be read, or do not belong together',
    remedy: 'As the message says; the present certificates are still used',
  },
}

/**
 * The relay between two sockets.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const RELAY = {
  ERR_FDB_RELAY_OPTION: {
    cause: 'A limit or time of the relay is an invalid number',
    remedy: 'Give one as the message says, or leave it out for the default',
  },
  ERR_FDB_RELAYED_RECORD: {
    cause:
      'The record of a relayed connection is invalid: it is damaged, or of a version that this one does not understand',
    remedy: 'The connection stays where it is',
  },
  ERR_FDB_RELAYED_REFUSED: {
    cause: 'The relay of this version does not take the connection: the message says why',
    remedy: 'The connection stays where it is',
  },
  ERR_FDB_FRAMES_RECORD: {
    cause: 'The position in a WebSocket stream that a record gives cannot be',
    remedy: 'The connection is closed; the two versions disagree on the record',
  },
  ERR_FDB_HTTP1_RECORD: {
    cause: 'The position in a body that a record gives cannot be',
    remedy: 'The connection is closed; the two versions disagree on the record',
  },
  ERR_FDB_HTTP1_LIMIT: {
    cause: 'A limit of the parser is no positive whole number',
    remedy: 'Give one, or leave it out for the default',
  },
  ERR_FDB_HTTP1_FIELD: {
    cause: 'A field that is to be added or removed is none, or one that frames the message',
    remedy: 'Give a token as its name and a value without control characters',
  },
}
