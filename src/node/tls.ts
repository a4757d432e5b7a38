import type tls from 'node:tls'

/** `node:tls`, loaded when it is asked for: most processes start sooner without. */
export function nodeTls(): typeof tls {
  return process.getBuiltinModule('node:tls')
}
