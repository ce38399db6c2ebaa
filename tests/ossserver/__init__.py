"""A server that treats requests as the documentation of Alibaba Cloud OSS says.

None of it is from OSS itself or from a client library of it. Each rule names the page that it comes
from; ``D`` below is https://www.alibabacloud.com/help/en/oss/. What the pages leave open is decided
against the client.
"""
