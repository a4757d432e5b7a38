import { createRequire } from 'node:module'

const load = createRequire(import.meta.url)

/** The package `yaml`, loaded when it is asked for: a configuration in JSON does without. */
export function yaml(): typeof import('yaml') {
  return load('#yaml') as typeof import('yaml')
}
