import { jsYaml } from '../base/lazy.js'

/** What the other package may make another value of, or a warning: an anchor, a tag, a directive. */
const UNUSUAL = /[&!%]|^<<|[{,\s]<</m

/**
 * The value of a YAML 1.2 text, by `js-yaml`, which needs an eighth of the time of `yaml`; undefined: it is left to that one, which says what is
 * wrong and where. Where there is a value both packages have the same.
 */
export function yamlValue(text: string): unknown {
  if (UNUSUAL.test(text)) return undefined
  const { CORE_SCHEMA, load } = jsYaml()
  try {
    return load(text, { schema: CORE_SCHEMA })
  } catch {
    return undefined
  }
}
