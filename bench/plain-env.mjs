// @ts-check
/**
 * The environment of what is measured: without what makes each start of Node slower that was meant for this machine's own tools. More certificates
 * alone take 100 ms of a processor of Node 20, whatever it is started for.
 * @returns {NodeJS.ProcessEnv}
 */
export function plainEnv() {
  const { NODE_EXTRA_CA_CERTS: _, NODE_OPTIONS: __, ...rest } = process.env
  return rest
}
