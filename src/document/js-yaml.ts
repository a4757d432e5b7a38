import { createRequire } from 'node:module'

const load = createRequire(import.meta.url)

/** The package `js-yaml`, loaded when it is asked for: a configuration in JSON does without. */
export function jsYaml(): Pick<typeof import('js-yaml'), 'CORE_SCHEMA' | 'load'> {
  return load('#js-yaml') as typeof import('js-yaml')
}
