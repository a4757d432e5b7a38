/** Every key of `source` in the configuration file. */
import { accessSync, constants } from 'node:fs'
import { shortJson } from '../../checks/place.js'
import { absent, required, shortFor } from '../../checks/shape.js'
import { absolutePath, type Checked, InvalidValue, orOff, refine, text } from '../../checks/values.js'

type Store =
  | { readonly kind: 'etcd'; readonly hosts: string[]; readonly prefix: string }
  | { readonly kind: 'http' }

const ETCD = /^etcd(s?):\/\/([^/?#@\s]+)(\/[^\s?#]+)$/
const DEFAULT_PORT = 2379

/** Splits the URL of a store, see {@link sourceShape}. */
export function storeOf(url: string): Store {
  const [, secure = '', hosts = '', path = ''] = ETCD.exec(url) ?? []
  if (hosts === '') return { kind: 'http' }
  const urls = hosts
    .split(',')
    .map(host => `http${secure}://${/:\d+$/.test(host) ? host : `${host}:${DEFAULT_PORT}`}`)
  return { kind: 'etcd', hosts: urls, prefix: path.endsWith('/') ? path : `${path}/` }
}

function storeUrl(given: string): string | InvalidValue {
  const store = storeOf(given)
  const urls = store.kind === 'etcd' ? store.hosts : [/^https?:/.test(given) ? given : '']
  if (urls.every(url => URL.canParse(url))) return given
  return new InvalidValue(
    `${shortJson(given)} is no store: write etcd://HOST:2379/PREFIX, with several hosts etcd://A:2379,B:2379/PREFIX, or https://HOST/PATH`,
  )
}

const readable = refine(absolutePath, (path, place) => {
  try {
    accessSync(path, constants.R_OK)
    return path
  } catch (error) {
    return place.wrong(`${shortJson(path)} cannot be read (${(error as NodeJS.ErrnoException).code})`)
  }
})

export const sourceShape = {
  url: required(
    text('the URL of a store', storeUrl),
    '`etcd://HOST:2379/PREFIX` (several hosts: `A:2379,B:2379`), `etcds://` with TLS, or `https://HOST/PATH`',
  ),
  user: absent(
    text('a name', given => given || new InvalidValue('"" is not a name')),
    undefined,
    'user of etcd',
  ),
  passwordFile: absent(readable, undefined, 'file with the user’s password'),
  ca: absent(readable, undefined, 'file with the CA of the store, PEM; default: Node’s'),
  cert: absent(readable, undefined, 'file with a client certificate, PEM'),
  key: absent(readable, undefined, 'file with its private key, PEM'),
}
export const source = orOff(
  refine(shortFor('url', sourceShape), (given, place) =>
    (given.user === undefined) === (given.passwordFile === undefined)
      ? given
      : place.wrong('give both "user" and "passwordFile", or neither'),
  ),
)
export type SourceConfig = NonNullable<Checked<typeof source>>
