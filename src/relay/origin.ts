/** Facts about a listener, shared by all connections that it accepted. */
export interface Origin {
  /** The listener's name. */
  listener: string
  scheme: 'http' | 'https'
}
