"""Parses an HTML page."""

import html.parser


class Page(html.parser.HTMLParser):
  """What a page consists of."""

  def __init__(self, content):
    super().__init__()
    self.tags, self.sections, self.images, self.links = [], [], [], []
    self.text = ''
    self.feed(content)

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    self.tags.append(tag)
    if tag == 'section':
      self.sections.append(attributes['id'])
    if tag == 'img':
      self.images.append(attributes)
    self.links += [v for k, v in attrs if k in ('href', 'src')]

  def handle_data(self, data):
    self.text += data
